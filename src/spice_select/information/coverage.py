"""How much of each target row a set of rows explains: coverage(q, S) = 1 - q^T (I + alpha F_S)^-1 q / q^T q, in [0, 1).

Contract: exact in float64 and in all directions of the features, whatever directions rows were chosen by. It only
grows with S, so no choice covers more than the whole pool does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from spice_select.information.features import FeatureRows, PartOfFeatures
from spice_select.information.inverse import shifted_cholesky
from spice_select.information.limits import Limit
from spice_select.information.moments import Moments, second_moment
from spice_select.information.ranks import ALONE, Ranks

_BLOCK = 512  # picks that enter the d x d inverse together


@dataclass(frozen=True, eq=False)
class Coverage:
    """Coverage of t target rows, by picks in their order, by the whole pool, and by random rows; all on the CPU.

    Attributes:
        weights: [t] of the target rows; their sum is 1.
        energy: [t] |q|^2.
        start: [t] coverage by the given rows alone, which count everywhere; 0 without them.
        steps: [k, t] what each pick adds.
        whole: [t] by all rows that could be picked.
        random: [t] by random rows that amount to as much as the picks, the mean of several draws.
        conflict: [n] of every row with the target, max(0, -cos(g~, sum of w_j q~_j)).
        along: [k, t] whether a pick's gradient points along a target row's, not against it.

    """

    weights: Tensor
    energy: Tensor
    start: Tensor
    steps: Tensor
    whole: Tensor
    random: Tensor
    conflict: Tensor
    along: Tensor

    @property
    def picks(self) -> Tensor:
        """[t] coverage by the picks."""
        return self.start + self.steps.sum(dim=0)

    def mean(self, coverage: Tensor) -> float:
        """The weighted mean over target rows of a coverage [t]."""
        return float(self.weights @ coverage)

    def picks_for(self, share: float) -> int:
        """The least number of picks, at least 1, whose mean coverage reaches this share of the whole pool's; or all."""
        means = self.mean(self.start) + (self.steps @ self.weights).cumsum(0)
        reached = (means >= share * self.mean(self.whole)).nonzero()
        return int(reached[0]) + 1 if len(reached) else len(means)

    @property
    def certificate(self) -> float:
        """The target's variance that the picks explain over what the whole pool does: no choice explains more."""
        variance = self.weights * self.energy
        whole = float(variance @ (self.whole - self.start))
        return min(1.0, float(variance @ (self.picks - self.start)) / whole) if whole > 0 else 1.0


def steps_of(rows: FeatureRows, targets: Tensor, alpha: float, before: Tensor | None = None) -> Tensor:
    """What each of `rows`, in order, adds to the coverage of `targets` [t, d]: [k, t].

    `before` [d, d] is the sum of g g^T over rows that are there from the start.
    """
    if before is None and rows.rows <= rows.dim:
        # Row i of L^-1 concerns the rows up to i alone, so one factor holds all prefixes.
        block = rows.block(0, rows.rows)
        factor = shifted_cholesky(alpha * (block @ block.T))
        found = cast(Tensor, torch.linalg.solve_triangular(factor, alpha**0.5 * (block @ targets.T), upper=False))
        return _shares(found.square(), targets)
    inverse = _inverse(before, alpha, targets)
    parts = [targets.new_zeros(0, len(targets))]
    for first in range(0, rows.rows, _BLOCK):
        block = rows.block(first, min(first + _BLOCK, rows.rows))
        images = block @ inverse  # M g of each row, [b, d]
        factor = shifted_cholesky(alpha * (images @ block.T))
        w = alpha**0.5 * cast(Tensor, torch.linalg.solve_triangular(factor, images, upper=False))
        parts.append((w @ targets.T).square())
        inverse.addmm_(w.T, w, alpha=-1.0)
    return _shares(torch.cat(parts), targets)


def coverage_by(
    features: FeatureRows, targets: Tensor, alpha: float, before: Tensor | None = None, ranks: Ranks = ALONE
) -> Tensor:
    """Coverage of `targets` [t, d] by all rows of `features`, and by rows whose sum of g g^T is `before`: [t]."""
    if before is None and features.rows <= features.dim:
        return steps_of(features, targets, alpha).sum(dim=0)
    moment = second_moment(features, ranks)
    return coverage_of_moment(moment if before is None else moment + before, targets, alpha)


def coverage_of_moment(moment: Tensor, targets: Tensor, alpha: float) -> Tensor:
    """Coverage of `targets` [t, d] by rows whose sum of g g^T is `moment` [d, d]: [t]."""
    factor = shifted_cholesky(alpha * moment)
    rooted = cast(Tensor, torch.linalg.solve_triangular(factor, targets.T, upper=False))
    left = rooted.square().sum(dim=0)
    return _shares((targets.square().sum(dim=1) - left).clamp(min=0.0), targets)


def whole_coverage(moments: Moments, targets: Tensor, alpha: float, before: Tensor | None = None) -> Tensor:
    """As `coverage_by`, for all rows of `moments`, whose second moment is computed once."""
    if moments.features.rows <= moments.features.dim:
        return coverage_by(moments.features, targets, alpha, before, moments.ranks)
    return coverage_of_moment(moments.moment if before is None else moments.moment + before, targets, alpha)


def random_coverage(
    moments: Moments, targets: Tensor, limit: Limit, picks: Sequence[int], alpha: float, draws: int,
    generator: torch.Generator, before: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean coverage of `targets` [t, d] by `draws` random subsets, each as much as `picks` by the limit: [t]."""
    total = torch.zeros(len(targets), dtype=torch.float64, device=targets.device)
    for _ in range(draws):
        order = torch.randperm(moments.features.rows, generator=generator)
        rows = limit.as_much(picks, order).sort().values.to(targets.device)
        total += coverage_by(PartOfFeatures(moments.features, rows), targets, alpha, before)
    return moments.ranks.broadcast(total / draws, 0)


def _inverse(before: Tensor | None, alpha: float, rows: Tensor) -> Tensor:
    """(I + alpha F)^-1 [d, d], where F is `before` or zero."""
    if before is None:
        return torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    return torch.cholesky_inverse(shifted_cholesky(alpha * before))


def _shares(parts: Tensor, targets: Tensor) -> Tensor:
    """Parts [..., t] of |q|^2 as shares of it; all of a zero row is left."""
    energy = targets.square().sum(dim=1)
    return torch.where(energy > 0, parts / energy, 0.0)
