"""Greedy selection that looks at every row at every step: the shorter way while all features fit a processor's cache.

Contract: exact in float64. A pick needs the products of its gradient with all rows; those of the rows that are likely
to follow are computed along with them, since a product of a few rows with all takes hardly longer than that of one.
"""

from typing import cast

import torch
from torch import Tensor

from spice_select.information.engine import Taken, Ties
from spice_select.information.interaction import Interaction

_FEWEST, _MOST = 4, 16  # rows whose products are computed together


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
        self._state: tuple[Tensor, Tensor, Tensor] | None = None  # priorities, gains, conflicts as S is now
        self._ahead = squares.new_zeros(0, 0)  # [b, n] products of some rows with all
        self._places: dict[int, int] = {}  # row -> its place in them
        self._together, self._used = _MOST, _MOST

    def best_row(self) -> int | None:
        """As `Engine.best_row`."""
        self.refreshed += len(self._rows)
        priorities, _, conflicts = self._seen()
        ties = Ties(self._largest_base, self._penalty)
        ties.offer(self._rows, priorities, conflicts)
        return ties.winner()

    def take(self, row: int, least_gain: float) -> Taken | None:
        """As `Engine.take`."""
        _, gains, conflicts = self._seen()
        gain, conflict = float(gains[row]), float(conflicts[row])
        if gain <= least_gain:
            return None
        self._interaction.add(row, self._products(row))
        self._closed[row] = -torch.inf
        self._state = None
        return Taken(gain, conflict)

    def close(self, rows: Tensor) -> None:
        """As `Engine.close`."""
        self._closed[rows] = -torch.inf
        self._state = None

    def refresh_all(self) -> tuple[Tensor, Tensor]:
        """As `Engine.refresh_all`."""
        return self._interaction.gains(), self._interaction.conflicts()

    def _seen(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._state is None:
            gains, conflicts = self.refresh_all()
            scores = gains - self._penalty * conflicts
            weighted = scores if self._weights is None else scores * self._weights
            self._state = (weighted + self._closed, gains, conflicts)
        return self._state

    def _products(self, row: int) -> Tensor:
        """Inner products of one row with all, [n]."""
        if row not in self._places:
            self._look_ahead(row)
        self._used += 1
        return self._ahead[self._places[row]]

    def _look_ahead(self, row: int) -> None:
        """Compute the products of `row` and of the rows of the best priorities; fewer where the last served little."""
        served = self._used * 2 >= self._together
        self._together = min(2 * self._together, _MOST) if served else max(self._together // 2, _FEWEST)
        self._used = 0
        likely = self._seen()[0].topk(min(self._together, len(self._rows)), sorted=False).indices
        rows: list[int] = [row, *cast(list[int], likely.tolist())]
        self._places = {other: place for place, other in enumerate(rows)}
        self._ahead = self._features[rows] @ self._features.T
