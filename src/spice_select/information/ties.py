"""The best of the rows offered and those that tie with it up to rounding; the lowest of them is picked.

Contract: the same row whatever order rows are offered in and however many processes offer them.
"""

import sys
from typing import cast

import torch
from torch import Tensor

from spice_select.information.ranks import ALONE, Ranks

_TIE = 1e-12
"""Share of the largest terms in a score within which scores are a tie: so little is rounding alone."""


class Ties:
    """The highest of the priorities offered, and the rows that reach it up to rounding.

    A conflict above 0 is a cosine and carries a cosine's rounding; a conflict of 0 carries none. So the width of a tie
    depends on the conflicts of the contenders, the rows near the top.
    """

    def __init__(self, largest_base: float, penalty: float):
        """Scores are gains of at most `largest_base` minus penalty * conflict."""
        self._best = -torch.inf
        self._base, self._penalty = largest_base, penalty
        self._contenders: list[tuple[int, float, float]] = []  # row, priority, conflict

    @property
    def floor(self) -> float:
        """The priority that a row must reach to be a contender."""
        return self._best - self._width(1.0)

    def _width(self, conflict: float) -> float:
        return _TIE * (self._base + self._penalty * conflict)

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
