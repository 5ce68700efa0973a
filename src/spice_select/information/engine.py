"""What a greedy selection asks of the bookkeeping below it, and ties between rows.

Contract: an engine knows n rows and a growing set S; everything it says is exact up to rounding in float64.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_TIE = 1e-12
"""Share of the largest terms in a score within which scores are a tie: so little is rounding alone."""


class Ties:
    """The highest of the priorities offered, and the rows that reach it up to rounding.

    A conflict above 0 is a cosine and carries a cosine's rounding; a conflict of 0 carries none. So the width of a tie
    depends on the conflicts of those near the top, the contenders.
    """

    def __init__(self, largest_base: float, penalty: float):
        """Scores are gains of at most `largest_base` minus penalty * conflict."""
        self.best = -torch.inf
        self._base, self._penalty = largest_base, penalty
        self._offers: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def floor(self) -> float:
        """What a row must reach to be a contender."""
        return self.best - self.width(1.0)

    def width(self, conflict: float) -> float:
        """How far priorities may lie apart and still be a tie where the largest conflict is this."""
        return _TIE * (self._base + self._penalty * conflict)

    def offer(self, rows: Tensor, priorities: Tensor, conflicts: Tensor) -> None:
        """Take note of these rows, their exact priorities and their conflicts, [b] each; -inf is no priority."""
        if len(rows):
            self.best = max(self.best, float(priorities.max()))
            near = priorities >= self.floor
            self._offers.append((rows[near], priorities[near], conflicts[near]))

    def largest_conflict(self) -> float:
        """The largest conflict among the contenders; 0 without any."""
        near = [conflicts[priorities >= self.floor] for _, priorities, conflicts in self._offers]
        return max((float(part.max()) for part in near if len(part)), default=0.0)

    def winner(self) -> int | None:
        """The lowest row that ties with the best; None if none has a priority."""
        return self.lowest(self.width(self.largest_conflict()))

    def lowest(self, width: float) -> int | None:
        """The lowest row within `width` of the best; None if none does."""
        if self.best == -torch.inf:
            return None
        reached = ((rows, priorities >= self.best - width) for rows, priorities, _ in self._offers)
        return min((int(rows[near].min()) for rows, near in reached if bool(near.any())), default=None)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a pick was worth when it was made: its gain in nats and its conflict."""

    gain: float
    conflict: float


class Engine(Protocol):
    """Priorities of n rows with respect to a growing S: (gain - penalty * conflict) * weight."""

    def best_row(self) -> int | None:
        """The open row of the highest priority, the lowest among ties; None if no row is open."""
        ...

    def take(self, row: int, least_gain: float) -> Taken | None:
        """Add `row` to S and close it; if its gain is not above `least_gain`, do nothing and return None."""
        ...

    def close(self, rows: Tensor) -> None:
        """Leave these rows out of all further choices."""
        ...

    def refresh_all(self) -> tuple[Tensor, Tensor]:
        """Gain and conflict of every row now, [n] each."""
        ...
