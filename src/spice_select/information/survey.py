"""One pass over all features: squared norms and the second moment, and what follows from them.

Contract: exact in float64; a few numbers a row and d x d (or n x n, where that is smaller) in memory.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from spice_select.information.certificate import last_gains
from spice_select.information.features import FeatureRows, block_bounds
from spice_select.information.validation import SelectionInputError, Spectrum


@dataclass(frozen=True, eq=False)
class Survey:
    """What one pass over n rows of d numbers gives.

    Attributes:
        squares: [n] |g|^2.
        moment: F = sum of g g^T [d, d], or where n < d the Gram matrix [n, n]: both have the same eigenvalues.
        by_rows: whether `moment` is the Gram matrix.

    """

    squares: Tensor
    moment: Tensor
    by_rows: bool

    @cached_property
    def spectrum(self) -> Spectrum:
        """Eigenvalues, ascending and >= 0, and eigenvectors of `moment`."""
        values, vectors = cast(tuple[Tensor, Tensor], torch.linalg.eigh(self.moment))
        return Spectrum(values.clamp(min=0.0), vectors)

    def last_gains(self, features: FeatureRows, alpha: float) -> Tensor:
        """D_x(D - x) for every row, [n] in nats: -log(1 - h) with the leverage h = alpha g^T (I + alpha F)^-1 g."""
        if self.by_rows:
            return last_gains(self.spectrum, alpha)
        return last_gains_beside(features, self.moment, alpha)


def last_gains_beside(features: FeatureRows, moment: Tensor, alpha: float) -> Tensor:
    """-log(1 - h) for every row, [n], where `moment` [d, d] sums g g^T over all rows, these included."""
    unit = torch.eye(features.dim, dtype=torch.float64, device=features.device)
    factor = cast(Tensor, torch.linalg.cholesky(unit + alpha * moment))
    result = torch.zeros(features.rows, dtype=torch.float64, device=features.device)
    for start, stop in block_bounds(features):
        columns = features.block(start, stop).T  # [d, b]
        rooted = cast(Tensor, torch.linalg.solve_triangular(factor, columns, upper=False))
        leverage = (alpha * rooted.square().sum(dim=0)).clamp(0.0, 1.0 - torch.finfo(torch.float64).eps)
        result[start:stop] = -torch.log1p(-leverage)
    return result


def second_moment(features: FeatureRows) -> Tensor:
    """Sum of g g^T over all rows, [d, d]."""
    moment = torch.zeros(features.dim, features.dim, dtype=torch.float64, device=features.device)
    for start, stop in block_bounds(features):
        block = features.block(start, stop)
        moment.addmm_(block.T, block)
    return moment


def survey(features: FeatureRows) -> Survey:
    """Read every row once.

    Raises:
        SelectionInputError: a number is not finite; the message names the row.

    """
    rows, dim = features.rows, features.dim
    squares = torch.zeros(rows, dtype=torch.float64, device=features.device)
    by_rows = rows < dim
    size = rows if by_rows else dim
    moment = torch.zeros(size, size, dtype=torch.float64, device=features.device)
    for start, stop in block_bounds(features):
        block = features.block(start, stop)
        squares[start:stop] = block.square().sum(dim=1)
        _refuse_infinite(squares[start:stop], start)
        if not by_rows:
            moment.addmm_(block.T, block)
            continue
        for first, last in block_bounds(features):
            moment[start:stop, first:last] = block @ features.block(first, last).T
    return Survey(squares, moment, by_rows)


def _refuse_infinite(squares: Tensor, start: int) -> None:
    bad = ~torch.isfinite(squares)
    if bool(bad.any()):
        raise SelectionInputError(
            f"features of row {start + int(bad.nonzero()[0])} are not finite, or overflow when squared; "
            "find the example whose gradient overflowed and drop it."
        )
