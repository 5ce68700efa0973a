"""One pass over all features: squared norms and the second moment, and what follows from them.

Contract: exact in float64; a few numbers a row and d x d (or n x n, where that is smaller) in memory.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from spice_select.information.certificate import last_gains
from spice_select.information.factor import shifted_cholesky
from spice_select.information.features import FeatureRows, block_bounds
from spice_select.information.ranks import ALONE, Ranks, own_range, own_rows
from spice_select.information.validation import SelectionInputError, Spectrum


@dataclass(frozen=True, eq=False)
class Survey:
    """What one pass over n rows of d numbers gives.

    Attributes:
        squares: [n] |g|^2.
        moment: F = sum of g g^T [d, d], or where n < d the Gram matrix [n, n]: both have the same eigenvalues.
        by_rows: whether `moment` is the Gram matrix.
        spectrum: eigenvalues of `moment`, ascending and >= 0, and its eigenvectors.

    """

    squares: Tensor
    moment: Tensor
    by_rows: bool
    spectrum: Spectrum

    def last_gains(self, features: FeatureRows, alpha: float, ranks: Ranks = ALONE) -> Tensor:
        """D_x(D - x) for every row, [n] in nats: -log(1 - h) with the leverage h = alpha g^T (I + alpha F)^-1 g."""
        if self.by_rows:
            return last_gains(self.spectrum, alpha)
        return last_gains_beside(features, self.moment, alpha, ranks)


def last_gains_beside(features: FeatureRows, moment: Tensor, alpha: float, ranks: Ranks = ALONE) -> Tensor:
    """-log(1 - h) for every row, [n], where `moment` [d, d] sums g g^T over all rows, these included."""
    factor = shifted_cholesky(alpha * moment)
    own = own_rows(features, ranks)
    result = torch.zeros(own.rows, dtype=torch.float64, device=own.device)
    for start, stop in block_bounds(own):
        columns = own.block(start, stop).T  # [d, b]
        rooted = cast(Tensor, torch.linalg.solve_triangular(factor, columns, upper=False))
        leverage = (alpha * rooted.square().sum(dim=0)).clamp(0.0, 1.0 - torch.finfo(torch.float64).eps)
        result[start:stop] = -torch.log1p(-leverage)
    return ranks.all_gather(result)


def second_moment(features: FeatureRows, ranks: Ranks = ALONE) -> Tensor:
    """Sum of g g^T over all rows, [d, d]."""
    moment = torch.zeros(features.dim, features.dim, dtype=torch.float64, device=features.device)
    own = own_rows(features, ranks)
    for start, stop in block_bounds(own):
        block = own.block(start, stop)
        moment.addmm_(block.T, block)
    return ranks.all_reduce_sum(moment)


def survey(features: FeatureRows, ranks: Ranks = ALONE) -> Survey:
    """Read every row once.

    Raises:
        SelectionInputError: a number is not finite; the message names the row.

    """
    own, before = own_rows(features, ranks), own_range(features.rows, ranks).start
    squares = torch.zeros(own.rows, dtype=torch.float64, device=features.device)
    by_rows = features.rows < features.dim
    size = features.rows if by_rows else features.dim
    moment = torch.zeros(size, size, dtype=torch.float64, device=features.device)
    for start, stop in block_bounds(own):
        block = own.block(start, stop)
        squares[start:stop] = block.square().sum(dim=1)
        _refuse_infinite(squares[start:stop], before + start)
        if not by_rows:
            moment.addmm_(block.T, block)
            continue
        for first, last in block_bounds(features):
            moment[before + start : before + stop, first:last] = block @ features.block(first, last).T
    moment = ranks.all_reduce_sum(moment)
    return Survey(ranks.all_gather(squares), moment, by_rows, _spectrum(moment, ranks))


def _spectrum(moment: Tensor, ranks: Ranks) -> Spectrum:
    """Computed once: eigenvectors of equal eigenvalues may differ from one processor to another."""
    values, vectors = moment.new_zeros(len(moment)), torch.zeros_like(moment)
    if ranks.rank == 0:
        values, vectors = cast(tuple[Tensor, Tensor], torch.linalg.eigh(moment))
    return Spectrum(ranks.broadcast(values.clamp(min=0.0), 0), ranks.broadcast(vectors, 0))


def _refuse_infinite(squares: Tensor, start: int) -> None:
    bad = ~torch.isfinite(squares)
    if bool(bad.any()):
        raise SelectionInputError(
            f"features of row {start + int(bad.nonzero()[0])} are not finite, or overflow when squared; "
            "find the example whose gradient overflowed and drop it."
        )
