"""Greedy selection that looks at every row at every step: the shorter way while all features fit a processor's cache.

Contract: exact in float64; one product of all rows with the pick's gradient a step.
"""

import torch
from torch import Tensor

from spice_select.information.engine import Taken, Ties
from spice_select.information.interaction import Interaction


class EagerGreedy:
    """An `Engine` on features held in memory."""

    def __init__(
        self,
        features: Tensor,
        squares: Tensor,
        alpha: float,
        penalty: float,
        capacity: int,
        largest_base: float,
        weights: Tensor | None = None,
    ):
        """Start with S empty; arguments as in `LazyGreedy`, `features` [n, d] float64."""
        self.refreshed = 0
        """Rows looked at so far: all, at every step."""
        self._features = features
        self._penalty, self._largest_base, self._weights = penalty, largest_base, weights
        self._interaction = Interaction(squares, alpha, capacity)
        self._rows = torch.arange(len(features), device=features.device)
        self._closed = torch.zeros_like(squares)  # -inf for closed rows

    def best_row(self) -> int | None:
        """As `Engine.best_row`."""
        self.refreshed += len(self._rows)
        conflicts = self._interaction.conflicts()
        scores = self._interaction.gains() - self._penalty * conflicts
        ties = Ties(self._largest_base, self._penalty)
        ties.offer(self._rows, (scores if self._weights is None else scores * self._weights) + self._closed, conflicts)
        return ties.winner()

    def take(self, row: int, least_gain: float) -> Taken | None:
        """As `Engine.take`."""
        gain, conflict = float(self._interaction.gains()[row]), float(self._interaction.conflicts()[row])
        if gain <= least_gain:
            return None
        self._interaction.add(row, self._features @ self._features[row])
        self._closed[row] = -torch.inf
        return Taken(gain, conflict)

    def close(self, rows: Tensor) -> None:
        """As `Engine.close`."""
        self._closed[rows] = -torch.inf

    def refresh_all(self) -> tuple[Tensor, Tensor]:
        """As `Engine.refresh_all`."""
        return self._interaction.gains(), self._interaction.conflicts()
