"""The greedy loop: pick the row of the highest priority, lowest index first among ties, until the limit or early stop.

Contract: the same picks whatever engine keeps the books.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from torch import Tensor

from spice_select.information.engine import Engine, Taken
from spice_select.information.limits import Limit


@dataclass
class Trace:
    """What a greedy run did. `prefixes` maps a number of picks to every row's gain after them, [n]."""

    picks: list[int] = field(default_factory=list[int])
    taken: list[Taken] = field(default_factory=list[Taken])
    prefixes: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    stopped_early: bool = False


def greedy(
    engine: Engine,
    limit: Limit,
    stop_ratio: float | None,
    checkpoints: Collection[int],
    on_pick: Callable[[int], None] = lambda _: None,
) -> Trace:
    """Pick until `limit` is reached, no row is left, or a gain is <= stop_ratio * the first pick's gain.

    Args:
        engine: all rows open; S may already hold rows that were given.
        limit: what may be picked.
        stop_ratio: omega, or None.
        checkpoints: numbers of picks after which every row's gain is noted.
        on_pick: told the number of picks made.

    """
    trace = Trace()
    allowance, closed = limit.start()
    if closed is not None:
        engine.close(closed)
    while not allowance.done:
        if len(trace.picks) in checkpoints:
            trace.prefixes[len(trace.picks)] = engine.refresh_all()[0]
        row = engine.best_row()
        if row is None:
            break
        taken = engine.take(row, _least_gain(trace, stop_ratio))
        if taken is None:
            trace.stopped_early = True
            break
        trace.picks.append(row)
        trace.taken.append(taken)
        closed = allowance.take(row)
        if closed is not None:
            engine.close(closed)
        on_pick(len(trace.picks))
    return trace


def _least_gain(trace: Trace, stop_ratio: float | None) -> float:
    """What a pick's gain must exceed; the first pick is always made."""
    if stop_ratio is None or not trace.taken:
        return float("-inf")
    return stop_ratio * trace.taken[0].gain
