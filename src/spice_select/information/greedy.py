"""The greedy loop: pick the row of the highest priority, lowest index first among ties, until the limit or early stop.

Contract: the same picks whichever engine computes the gains. An engine knows n rows and a growing set S.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from spice_select.information.limits import Limit


@dataclass(frozen=True, slots=True)
class Pick:
    """A row, its gain in nats and its conflict at the moment when it was picked."""

    row: int
    gain: float
    conflict: float


class Engine(Protocol):
    """Priorities of n rows with respect to a growing S: (gain - penalty * conflict) * weight, exact up to rounding."""

    def best_row(self) -> int | None:
        """The open row of the highest priority, the lowest among ties; None if no row is open."""
        ...

    def take(self, row: int, least_gain: float) -> Pick | None:
        """Add `row` to S and close it; if its gain is not above `least_gain`, do nothing and return None."""
        ...

    def close(self, rows: Tensor) -> None:
        """Leave these rows out of all further choices."""
        ...


@dataclass
class Trace:
    """The picks of a greedy run, in order, and whether the early stop ended it."""

    picks: list[Pick] = field(default_factory=list[Pick])
    stopped_early: bool = False

    @property
    def rows(self) -> list[int]:
        """The picked rows."""
        return [pick.row for pick in self.picks]


def greedy(
    engine: Engine,
    limit: Limit,
    stop_ratio: float | None = None,
    order: Iterable[int] | None = None,
    on_pick: Callable[[int], None] = lambda _: None,
) -> Trace:
    """Pick until `limit` is reached, no row is left, or a gain is <= stop_ratio * the first pick's gain.

    Args:
        engine: all rows open; S may already hold given rows.
        limit: what may be picked.
        stop_ratio: omega, or None.
        order: rows to pick one after another, in place of the best ones.
        on_pick: receives the number of picks made.

    """
    trace, most, close_after = Trace(), limit.most, limit.start()
    remaining = None if order is None else iter(order)
    closed = close_after(None)
    while True:
        if closed is not None:
            engine.close(closed)
        if len(trace.picks) == most:
            return trace
        row = engine.best_row() if remaining is None else next(remaining, None)
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
