"""Several processes that make one selection together: which rows are whose, and what they tell each other.

Contract: every process calls the same functions in the same order and gets the same answers. Rows are dealt out in runs
of neighbours; each process reads its own alone.
"""

from typing import Protocol

from torch import Tensor

from spice_select.information.features import FeatureRows, RangeOfFeatures


class Ranks(Protocol):
    """The processes, numbered from 0; all methods are called by all of them together."""

    rank: int
    size: int

    def largest(self, value: float) -> float:
        """The largest of everyone's values."""
        ...

    def lowest(self, value: int) -> int:
        """The lowest of everyone's values."""
        ...

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of everyone's tensors, which are of one shape."""
        ...

    def join(self, part: Tensor) -> Tensor:
        """Everyone's parts one after another, in order of rank."""
        ...

    def spread(self, tensor: Tensor, owner: int) -> Tensor:
        """The owner's tensor; the others give one of the same shape."""
        ...


class OneRank:
    """A single process."""

    rank = 0
    size = 1

    def largest(self, value: float) -> float:
        """As `Ranks.largest`."""
        return value

    def lowest(self, value: int) -> int:
        """As `Ranks.lowest`."""
        return value

    def add_up(self, tensor: Tensor) -> Tensor:
        """As `Ranks.add_up`."""
        return tensor

    def join(self, part: Tensor) -> Tensor:
        """As `Ranks.join`."""
        return part

    def spread(self, tensor: Tensor, owner: int) -> Tensor:
        """As `Ranks.spread`."""
        del owner
        return tensor


ALONE = OneRank()


def own_range(rows: int, ranks: Ranks) -> range:
    """The rows of this process among so many."""
    return range(rows * ranks.rank // ranks.size, rows * (ranks.rank + 1) // ranks.size)


def own_rows(features: FeatureRows, ranks: Ranks) -> FeatureRows:
    """The features of this process's rows, numbered from 0."""
    own = own_range(features.rows, ranks)
    return features if ranks.size == 1 else RangeOfFeatures(features, own)
