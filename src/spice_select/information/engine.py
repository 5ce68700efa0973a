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
            highest = float(priorities.max())
            if highest >= self.floor:
                self.best = max(self.best, highest)
                self._offers.append((rows, priorities, conflicts))

    def winner(self) -> int | None:
        """The lowest row that ties with the best; None if none has a priority."""
        if len(self._offers) == 1 and self.best > -torch.inf:  # nearly always: one offer, one row in it
            rows, priorities, _ = self._offers[0]
            places = (priorities >= self.floor).nonzero()
            if len(places) == 1:
                return int(rows[int(places)])
        rows, priorities, conflicts = self._contenders()
        if not len(rows):
            return None
        near = priorities >= self.best - self.width(float(conflicts.max()))
        return int(rows[near].min())

    def largest_conflict(self) -> float:
        """The largest conflict among the contenders; 0 without any."""
        conflicts = self._contenders()[2]
        return float(conflicts.max()) if len(conflicts) else 0.0

    def lowest(self, width: float) -> int | None:
        """The lowest row within `width` of the best; None if none is."""
        rows, priorities, _ = self._contenders()
        near = priorities >= self.best - width
        return int(rows[near].min()) if bool(near.any()) else None

    def _contenders(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, priorities and conflicts of those that reach the floor."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for rows, priorities, conflicts in self._offers if self.best > -torch.inf else []:
            near = (priorities >= self.floor).nonzero().squeeze(1)
            if len(near):
                found.append((rows[near], priorities[near], conflicts[near]))
        if len(found) == 1:
            return found[0]
        nothing = (torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0))
        first, second, third = ([part[i] for part in found] or [nothing[i]] for i in range(3))
        return torch.cat(first), torch.cat(second), torch.cat(third)


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
