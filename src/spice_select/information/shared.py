"""One greedy selection by several processes, each with rows of its own: an `Engine` over all rows.

Contract: the picks of a single process. A pick takes three numbers from everyone and one row's vectors from its owner.
"""

import math

import torch
from torch import Tensor

from spice_select.information.engine import Taken
from spice_select.information.lazy import Candidate, LazyGreedy
from spice_select.information.ranks import Ranks, own_range


class SharedGreedy:
    """Priorities of n rows of which this process holds a range."""

    def __init__(self, own: LazyGreedy, rows: int, ranks: Ranks):
        """`own` knows this process's rows, numbered from 0, and the same S as everyone; `rows` is n."""
        self._own, self._ranks, self._rows = own, ranks, rows
        self._range = own_range(rows, ranks)

    def best_row(self) -> int | None:
        """As `Engine.best_row`."""
        ties = self._own.best()
        ties.best = self._ranks.all_reduce_max(ties.best)
        row = ties.lowest(ties.width(self._ranks.all_reduce_max(ties.largest_conflict())))
        found = self._ranks.all_reduce_min(self._rows if row is None else self._range.start + row)
        return None if found == self._rows else found

    def take(self, row: int, least_gain: float) -> Taken | None:
        """As `Engine.take`."""
        owner = next(r for r in range(self._ranks.size) if row < self._rows * (r + 1) // self._ranks.size)
        mine = row in self._range
        candidate, gain = self._spread(self._own.look(row - self._range.start) if mine else None, owner)
        if gain <= least_gain:
            return None
        self._own.add(candidate)
        if mine:
            self._own.close(row - self._range.start)
        return Taken(gain, candidate.conflict)

    def close(self, rows: Tensor) -> None:
        """As `Engine.close`."""
        mine = (rows >= self._range.start) & (rows < self._range.stop)
        self._own.close(rows[mine] - self._range.start)

    def refresh_all(self) -> tuple[Tensor, Tensor]:
        """As `Engine.refresh_all`."""
        gains, conflicts = self._own.refresh_all()
        return self._ranks.all_gather(gains), self._ranks.all_gather(conflicts)

    @property
    def refreshed(self) -> int:
        """Rows that all processes together looked at again."""
        return int(self._ranks.all_reduce_sum(torch.tensor(self._own.refreshed)))

    def _spread(self, candidate: Candidate | None, owner: int) -> tuple[Candidate, float]:
        if candidate is None:
            packed = torch.empty(2 * self._own.dim + 3, dtype=torch.float64, device=self._own.device)
        else:
            gain = math.log1p(self._own.alpha * candidate.remainder)  # its owner's: all must stop at the same pick
            numbers = candidate.vector.new_tensor([gain, candidate.remainder, candidate.conflict])
            packed = torch.cat([candidate.vector, candidate.image, numbers])
        told = self._ranks.broadcast(packed, owner)
        dim = self._own.dim
        return Candidate(told[:dim], told[dim : 2 * dim], float(told[-2]), float(told[-1])), float(told[-3])
