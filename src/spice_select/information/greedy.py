"""The greedy loop: pick the row of the highest priority, lowest index first among ties, until the limit or early stop.

Contract: the same picks whichever engine computes the gains, whatever order it offers rows in, and however many
processes offer them.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor

from spice_select.information.checks import ROUNDING
from spice_select.information.limits import Limit
from spice_select.information.ranks import ALONE, Ranks

_TIE = 1e-12
"""Share of the largest terms in a score within which scores are a tie: so little is rounding alone.

Gains are exact to `ROUNDING` times the largest alpha |g|^2, which is more where that is above 100.
"""


@dataclass(frozen=True, slots=True)
class Pick:
    """A row, its gain in nats and its conflict at the moment when it was picked."""

    row: int
    gain: float
    conflict: float


class Engine(Protocol):
    """Priorities of n rows with respect to a growing S: gain - penalty * conflict, weighed by cost where rows have one.

    Exact up to rounding.
    """

    def best_row(self) -> int | None:
        """The open row of the highest priority, the lowest among ties; None if no row is open."""

    def take(self, row: int, least_gain: float) -> Pick | None:
        """Add `row` to S and close it; if its gain is not above `least_gain`, do nothing and return None."""

    def close(self, rows: Tensor) -> None:
        """Leave these rows out of all further choices."""


class Ties:
    """The highest of the priorities offered, and the rows that reach it up to rounding; the lowest of them is picked.

    A conflict above 0 is a cosine and carries a cosine's rounding; a conflict of 0 carries none. So the width of a tie
    depends on the conflicts of the contenders, the rows near the top.
    """

    def __init__(self, reach: float, penalty: float):
        """Scores are gains, of rows with alpha |g|^2 up to `reach`, minus penalty * conflict."""
        self._best = -torch.inf
        self._of_gains, self._of_conflict = _TIE * math.log1p(reach) + ROUNDING * reach, _TIE * penalty
        self._contenders: list[tuple[int, float, float]] = []  # row, priority, conflict

    @property
    def floor(self) -> float:
        """The priority that a row must reach to be a contender."""
        return self._best - self._width(1.0)

    def _width(self, conflict: float) -> float:
        return self._of_gains + self._of_conflict * conflict

    def offer(self, rows: Tensor, priorities: Tensor, conflicts: Tensor) -> None:
        """Consider rows with their exact priorities (-inf for a closed row) and their conflicts, [b] each."""
        highest = float(priorities.max()) if len(rows) else -torch.inf
        if highest > -torch.inf and highest >= self.floor:
            self._best = max(self._best, highest)
            near = (priorities >= self.floor).nonzero().squeeze(1)
            places = cast("list[int]", rows[near].tolist())
            scores, against = (cast("list[float]", values[near].tolist()) for values in (priorities, conflicts))
            self._contenders += zip(places, scores, against, strict=True)

    def lowest(self, ranks: Ranks = ALONE, first: int = 0) -> int | None:
        """The lowest row that ties with the best of all processes, or None; own rows count from `first`."""
        self._best = ranks.all_reduce_max(self._best)
        near = [conflict for _, priority, conflict in self._contenders if priority >= self.floor]
        floor = self._best - self._width(ranks.all_reduce_max(max(near, default=0.0)))
        tied = (first + row for row, priority, _ in self._contenders if priority >= floor)
        row = ranks.all_reduce_min(min(tied, default=sys.maxsize))
        return None if row == sys.maxsize else row


@dataclass
class Trace:
    """The picks of a greedy run, in order, and whether the early stop ended it."""

    picks: list[Pick] = field(default_factory=list[Pick])
    stopped_early: bool = False

    @property
    def rows(self) -> list[int]:
        """The picked rows."""
        return [pick.row for pick in self.picks]

    def total_score(self, penalty: float) -> float:
        """The sum of the picks' scores."""
        return sum(pick.gain - penalty * pick.conflict for pick in self.picks)


def greedy(
    engine: Engine,
    limit: Limit,
    stop_ratio: float | None = None,
    first: Sequence[int] = (),
    on_pick: Callable[[int], None] = lambda _: None,
) -> Trace:
    """Pick until `limit` is reached, no row is left, or a gain is <= `stop_ratio` (omega) * the first pick's gain.

    `engine` has all rows open; its S may already hold given rows. The rows `first` are picked before any other, in this
    order; `on_pick` receives the number of picks made.
    """
    trace, most, close_after = Trace(), limit.most, limit.start()
    closed = close_after(None)
    while True:
        if closed is not None:
            engine.close(closed)
        made = len(trace.picks)
        if made == most:
            return trace
        row = first[made] if made < len(first) else engine.best_row()
        if row is None:
            return trace
        least = -float("inf") if stop_ratio is None or not trace.picks else stop_ratio * trace.picks[0].gain
        pick = engine.take(row, least)
        if pick is None:
            trace.stopped_early = True
            return trace
        trace.picks.append(pick)
        on_pick(len(trace.picks))
        closed = close_after(row)
