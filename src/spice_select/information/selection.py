"""The record of a selection: its picks and the quantities behind them, however they were found.

Contract: the picks are known at once. What needs all rows once more is computed when it is first read, and kept.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from spice_select.information.certificate import Certificate, certify, total_curvature
from spice_select.information.coverage import Coverage
from spice_select.information.greedy import Trace
from spice_select.information.limits import Limit


class AllRows(NamedTuple):
    """What is computed of all n rows once the picks are made."""

    gains: Iterable[tuple[int, Tensor]]  # [n] after so many picks, for several prefixes of the picks, all of them last
    conflicts: Tensor  # [n] with the whole selection
    spectral_bound: float  # from `eigenvalue_bound`
    last_gains: Tensor  # [n] D_x(D - x)


class _Measures(NamedTuple):
    gain: Tensor
    conflict: Tensor
    certificate: Certificate
    curvature: float


@dataclass(frozen=True, eq=False)
class Selection:
    """The picks of one pool and the quantities behind them.

    The [m] tensors (float64) cover every row. For a pick they hold the values at the moment it was picked,
    with respect to the picks before it; for the rest, those at the end, with respect to the whole selection.

    Attributes:
        indices: the picks, in the order they were made.
        base: [m] D_x(empty), in nats.
        information: U(S), in nats: the sum of the picks' gains.
        stopped_early: whether the early stop, not the budget, ended the selection.
        coverage: of each target row, where rows were picked for a target.

    """

    indices: list[int]
    base: Tensor
    information: float
    stopped_early: bool
    _penalty: float = field(repr=False)
    _guarantee: Callable[[float], float] | None = field(repr=False)
    _measure: Callable[[], _Measures] = field(repr=False)
    coverage: Coverage | None = None

    @cached_property
    def _measures(self) -> _Measures:
        return self._measure()

    @property
    def gain(self) -> Tensor:
        """[m] D_x(S), in nats, >= 0."""
        return self._measures.gain

    @property
    def epsilon(self) -> Tensor:
        """[m] gain - base, <= 0: what interaction with S has cost."""
        return self.gain - self.base

    @property
    def conflict(self) -> Tensor:
        """[m] max(0, -cos(g_x, m_S)), in [0, 1]."""
        return self._measures.conflict

    @property
    def score(self) -> Tensor:
        """[m] gain - penalty * conflict."""
        return self.gain - self._penalty * self.conflict

    @property
    def certificate(self) -> Certificate:
        """What share of the best possible information S is certain to hold."""
        return self._measures.certificate

    @property
    def curvature(self) -> float:
        """Total curvature c of U on this pool, in [0, 1]."""
        return self._measures.curvature

    @property
    def rank(self) -> Tensor:
        """[m] int64: 0 for the first pick, 1 for the second ..., -1 for a row that was not picked."""
        rank = torch.full(self.base.shape, -1)
        rank[self.indices] = torch.arange(len(self.indices))
        return rank

    @property
    def guarantee(self) -> float | None:
        """The share of the best U within the limit that such picks are proven to hold whatever the pool, from c alone.

        (1 - e^-c) / c for a number of rows (Theorem 3), 1 / (1 + c) with quotas, 1 - 1 / sqrt(e) for a budget of cost.
        None where nothing is proven: with a penalty, after an early stop, for the picks of another method.
        """
        return None if self._guarantee is None else self._guarantee(self.curvature)


def record(
    trace: Trace,
    base: Tensor,
    limit: Limit,
    penalty: float,
    reach: float,
    guarantee: Callable[[float], float] | None,
    all_rows: Callable[[], AllRows],
) -> Selection:
    """The record of picks; `base` is D_x(empty), [n], and `reach` the largest alpha |g|^2 of any row.

    `guarantee` is that of the picks if penalty is 0 and nothing stopped them. `all_rows` is called when what needs it
    is first read.
    """
    gains = torch.tensor([pick.gain for pick in trace.picks], dtype=torch.float64)
    conflicts = torch.tensor([pick.conflict for pick in trace.picks], dtype=torch.float64)
    picks = torch.tensor(trace.rows, dtype=torch.int64)
    reached = torch.cat([gains.new_zeros(1), gains.cumsum(0)])  # [k + 1], U of each prefix
    information = float(reached[-1])

    def measure() -> _Measures:
        found, bounds, first, gain = all_rows(), dict[int, float](), base, base
        for count, values in found.gains:
            gain = values.cpu()
            first = gain if count == 0 else first
            outside = gain.clone()
            outside[picks[:count]] = 0.0  # a row inside the prefix gains nothing
            bounds[count] = float(reached[count]) + limit.largest_sum(outside, len(picks))
        gain, conflict = gain.clone(), found.conflicts.cpu().clone()
        gain[picks], conflict[picks] = gains, conflicts
        terms = len(picks) + (len(picks) if limit.weights is None else limit.most)
        certificate = certify(information, bounds, found.spectral_bound, reach, terms)
        return _Measures(gain, conflict, certificate, total_curvature(found.last_gains.cpu(), first))

    proven = None if penalty > 0.0 or trace.stopped_early else guarantee
    return Selection(trace.rows, base.cpu(), information, trace.stopped_early, penalty, proven, measure)
