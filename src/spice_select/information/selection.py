"""Choosing rows of one Gram matrix, and the record of everything that was computed on the way.

Contract: pure functions of an m x m Gram matrix K_ij = <g_i, g_j>; float64 on the CPU; deterministic.

    selection = select_from_gram(gradients @ gradients.T, budget=12, alpha=relative_alpha(gram, 1.0))
    selection.indices, selection.certificate.ratio
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from torch import Tensor

from spice_select.information.certificate import (
    Certificate,
    certify,
    eigenvalue_bound,
    gain_bounds,
    guarantee_factor,
    last_gains,
    total_curvature,
)
from spice_select.information.engine import Ties
from spice_select.information.interaction import Interaction
from spice_select.information.validation import (
    GramLike,
    Spectrum,
    read_alpha,
    read_budget,
    read_gram,
    read_order,
    read_penalty,
    read_stop_ratio,
    spectrum,
)


@dataclass(frozen=True, eq=False)
class Selection:
    """The picks of one pool and the quantities behind them.

    The [m] tensors (float64) cover every row. For a pick they hold the values at the moment it was picked,
    with respect to the picks before it; for the rest, those at the end, with respect to the whole selection.

    Attributes:
        indices: the picks, in the order they were made.
        gain: [m] D_x(S), in nats, >= 0.
        base: [m] D_x(empty), in nats.
        epsilon: [m] gain - base, <= 0: what interaction with S has cost.
        conflict: [m] max(0, -cos(g_x, m_S)), in [0, 1].
        score: [m] gain - penalty * conflict.
        information: U(S), in nats: the sum of the picks' gains.
        stopped_early: whether the early stop, not the budget, ended the selection.
        certificate: what share of the best possible information S is certain to hold.
        curvature: total curvature c of U on this pool, in [0, 1].

    """

    indices: list[int]
    gain: Tensor
    base: Tensor
    epsilon: Tensor
    conflict: Tensor
    score: Tensor
    information: float
    stopped_early: bool
    certificate: Certificate
    curvature: float

    @property
    def rank(self) -> Tensor:
        """[m] int64: 0 for the first pick, 1 for the second ..., -1 for a row that was not picked."""
        rank = torch.full(self.gain.shape, -1)
        rank[self.indices] = torch.arange(len(self.indices))
        return rank

    @property
    def guarantee(self) -> float:
        """(1 - e^-c) / c: Theorem 3's share of U(OPT_k), which holds when penalty was 0."""
        return guarantee_factor(self.curvature)


def select_from_gram(
    gram: GramLike, budget: int, alpha: float, penalty: float = 0.1, stop_ratio: float | None = None
) -> Selection:
    """Pick up to `budget` rows greedily by score = gain - penalty * conflict (the paper's algorithm 1).

    Ties go to the lower index; scores that differ by rounding alone are ties.

    Args:
        gram: m x m inner products of per-sample gradients (tensor, array or nested lists; any real dtype, any
            device). Scale it first with `scale_gram` where lengths matter.
        budget: k, from 1 to m.
        alpha: absolute, applied to gram as given; `relative_alpha` finds one that suits the pool.
        penalty: lambda, the weight of the conflict; 0 is pure information.
        stop_ratio: omega; stop before the first pick whose gain is <= omega * (gain of the first pick).
            None fills the budget.

    Raises:
        SelectionInputError: an argument cannot be used; the message says which, where, and what to do.

    """
    checked = read_gram(gram)
    matrix = checked.matrix
    count = read_budget(budget, matrix.shape[0])
    ratio = read_stop_ratio(stop_ratio)
    run = _Run(matrix, read_alpha(alpha, matrix), read_penalty(penalty), count)
    eigen = spectrum(checked)
    stopped = False
    while len(run.picks) < count and not stopped:
        row = run.best()
        stopped = ratio is not None and run.is_exhausted(row, ratio)
        if not stopped:
            run.take(row)
    return run.finish(eigen, stopped_early=stopped)


def select_in_order(gram: GramLike, order: Iterable[SupportsIndex], alpha: float, penalty: float = 0.1) -> Selection:
    """Record picks made by another method (at random, by norm ...) as `select_from_gram` records its own.

    Args:
        gram: m x m inner products.
        order: distinct row numbers, in the order they were picked; at least one.
        alpha: absolute.
        penalty: lambda; it changes the column `score` only, since the order is fixed.

    Raises:
        SelectionInputError: an argument cannot be used.

    """
    checked = read_gram(gram)
    matrix = checked.matrix
    rows = read_order(order, matrix.shape[0])
    run = _Run(matrix, read_alpha(alpha, matrix), read_penalty(penalty), len(rows))
    eigen = spectrum(checked)
    for row in rows:
        run.take(row)
    return run.finish(eigen, stopped_early=False)


def largest_norms(gram: GramLike, budget: int) -> list[int]:
    """The `budget` rows with the largest |g|, largest first; ties go to the lower index."""
    matrix = read_gram(gram).matrix
    count = read_budget(budget, matrix.shape[0])
    return [int(row) for row in matrix.diagonal().argsort(descending=True, stable=True)[:count]]


class _Run:
    """One selection under way: the picks, and what every row was worth before each of them."""

    def __init__(self, matrix: Tensor, alpha: float, penalty: float, capacity: int):
        self.picks: list[int] = []
        self._alpha = alpha
        self._penalty = penalty
        self._matrix = matrix
        self._interaction = Interaction(matrix.diagonal().clone(), alpha, capacity)
        self._gains = [self._interaction.gains()]  # before each pick and after the last, [m] each
        self._conflicts = [self._interaction.conflicts()]

    def best(self) -> int:
        conflicts = self._conflicts[-1]
        scores = self._gains[-1] - self._penalty * conflicts
        scores[self.picks] = -torch.inf
        ties = Ties(float(self._gains[0].max()), self._penalty)
        ties.offer(torch.arange(len(scores)), scores, conflicts)
        row = ties.lowest(ties.width(ties.largest_conflict()))
        assert row is not None
        return row

    def is_exhausted(self, row: int, ratio: float) -> bool:
        """Whether picking `row` next would gain too little beside the first pick."""
        if not self.picks:
            return False
        return bool(self._gains[-1][row] <= ratio * self._gains[0][self.picks[0]])

    def take(self, row: int) -> None:
        """Pick `row` and bring every gain and conflict up to date."""
        self._interaction.add(row, self._matrix[row])
        self.picks.append(row)
        self._gains.append(self._interaction.gains())
        self._conflicts.append(self._interaction.conflicts())

    def finish(self, eigen: Spectrum, *, stopped_early: bool) -> Selection:
        """Put the record together: values at each pick, and for the rest those at the end."""
        picks, base = torch.tensor(self.picks), self._gains[0]
        steps = torch.arange(len(self.picks))
        history = torch.stack(self._gains)  # [k + 1, m]
        gain, conflict = self._gains[-1].clone(), self._conflicts[-1].clone()
        gain[picks] = history[steps, picks]
        conflict[picks] = torch.stack(self._conflicts)[steps, picks]
        information = torch.cat([base.new_zeros(1), gain[picks].cumsum(0)])  # [k + 1], U of each prefix
        for step, row in enumerate(self.picks):
            history[step + 1 :, row] = 0.0  # a row inside the prefix gains nothing
        total = float(information[-1])
        bounds = gain_bounds(information, history, len(self.picks))
        spectral = eigenvalue_bound(eigen.values, self._alpha, len(self.picks))
        return Selection(
            indices=list(self.picks),
            gain=gain,
            base=base,
            epsilon=gain - base,
            conflict=conflict,
            score=gain - self._penalty * conflict,
            information=total,
            stopped_early=stopped_early,
            certificate=certify(total, bounds, spectral),
            curvature=total_curvature(last_gains(eigen, self._alpha), base),
        )
