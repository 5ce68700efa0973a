"""Where a selection on features finds its rows: n gradients of d dimensions, in memory or mapped from files.

Contract: rows come as float64 on one device, always the same values for the same row.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from spice_select.information.ranks import ALONE, Ranks, own_range

BLOCK_BYTES = 32 << 20
"""Size in float64 of the blocks in which features are read from one end to the other."""


@runtime_checkable
class FeatureRows(Protocol):
    """n x d features that may not fit in memory."""

    @property
    def rows(self) -> int:
        """How many rows, n."""
        ...

    @property
    def dim(self) -> int:
        """Dimensions of a row, d."""
        ...

    @property
    def device(self) -> torch.device:
        """Where `take` and `block` put what they read."""
        ...

    def take(self, rows: Tensor) -> Tensor:
        """The rows with these numbers [b], in this order: [b, d] float64."""
        ...

    def block(self, start: int, stop: int) -> Tensor:
        """Rows start to stop: [stop - start, d] float64."""
        ...


class TensorFeatures:
    """Features in one tensor [n, d] of any real type."""

    def __init__(self, features: Tensor):
        """Read from `features`; nothing is copied."""
        self._features = features
        self.rows, self.dim = features.shape
        self.device = features.device

    def take(self, rows: Tensor) -> Tensor:
        """As `FeatureRows.take`."""
        return self._features[rows].double()

    def block(self, start: int, stop: int) -> Tensor:
        """As `FeatureRows.block`."""
        return self._features[start:stop].double()


class ScaledFeatures:
    """Other features, row i times factor s_i as it is read."""

    def __init__(self, features: FeatureRows, factors: Tensor):
        """`factors` [n] float64, on the features' device."""
        self._features = features
        self._factors = factors
        self.rows, self.dim, self.device = features.rows, features.dim, features.device

    def take(self, rows: Tensor) -> Tensor:
        """As `FeatureRows.take`."""
        return self._features.take(rows) * self._factors[rows][:, None]

    def block(self, start: int, stop: int) -> Tensor:
        """As `FeatureRows.block`."""
        return self._features.block(start, stop) * self._factors[start:stop, None]


class PartOfFeatures:
    """Some rows of other features, numbered from 0."""

    def __init__(self, features: FeatureRows, places: Tensor):
        """`places` [m] int64 are the rows, on the features' device."""
        self._features, self._places = features, places
        self.rows, self.dim, self.device = len(places), features.dim, features.device

    def take(self, rows: Tensor) -> Tensor:
        """As `FeatureRows.take`."""
        return self._features.take(self._places[rows])

    def block(self, start: int, stop: int) -> Tensor:
        """As `FeatureRows.block`."""
        return self._features.take(self._places[start:stop])


def own_blocks(features: FeatureRows, ranks: Ranks = ALONE) -> Iterator[tuple[slice, Tensor]]:
    """Read this process's rows in order, in blocks [b, d] of about `BLOCK_BYTES`, with their places among its rows."""
    step = max(1, BLOCK_BYTES // (8 * max(1, features.dim)))
    own = own_range(features.rows, ranks)
    for start in range(0, len(own), step):
        places = slice(start, min(start + step, len(own)))
        yield places, features.block(own.start + places.start, own.start + places.stop)
