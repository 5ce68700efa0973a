"""The mean direction m_S of a growing set, the conflict of rows with it, and how far it has turned.

Contract: exact in float64. A cosine changes by no more than the unit vector of m_S moved, so a row's conflict seen
earlier bounds its conflict now: what it saw, minus the length of the path that the unit vector has gone since.
"""

import torch
from torch import Tensor

from spice_select.information.objective import ETA, conflicts

_NO_DIRECTION = 4 * torch.finfo(torch.float64).eps
_ANY_TURN = 2.0  # the most by which a cosine can change


class MeanDirection:
    """The sum of the gradients of S, and `path`, the length of the way that its unit vector has gone."""

    def __init__(self, dim: int, smallest_norm: float, device: torch.device):
        """Start with the empty set; `smallest_norm` is the least |g| > 0 among all rows."""
        self.sum = torch.zeros(dim, dtype=torch.float64, device=device)  # [d]
        self.path = 0.0
        self._smallest_norm = smallest_norm
        self._unit: Tensor | None = None  # [d]; None while S is empty or its gradients cancel
        self._count = 0
        self._length = 0.0  # |sum|
        self._squares = 0.0  # sum of |g|^2 over S

    def add(self, vector: Tensor) -> None:
        """Add one gradient [d]."""
        self.add_many(vector, 1, float(vector @ vector))

    def add_many(self, total: Tensor, count: int, squares: float) -> None:
        """Add `count` gradients with this sum [d] and this sum of |g|^2."""
        self.sum += total
        self._count += count
        self._squares += squares
        square = float(self.sum @ self.sum)
        self._length = square**0.5
        # A sum that is zero up to rounding has no direction, and its cosines would be noise.
        unit = self.sum / self._length if square > _NO_DIRECTION * self._count * self._squares else None
        if unit is None or self._unit is None:
            self.path += _ANY_TURN
        else:
            self.path += float((unit - self._unit).norm())
        self._unit = unit

    def conflicts(self, products: Tensor, norms: Tensor) -> Tensor:
        """max(0, -cos(g, m_S)) from <g, sum of S> and |g|, both [b]; all 0 while there is no direction."""
        if self._unit is None:
            return torch.zeros_like(norms)
        return conflicts(products / self._count, norms, self._length / self._count)

    def conflict(self, product: float, norm: float) -> float:
        """`conflicts` for a single row."""
        if self._unit is None:
            return 0.0
        cosine = product / self._count / (norm * (self._length / self._count) + ETA)
        return min(max(0.0, -cosine), 1.0)

    def opposition(self, products: Tensor, norms: Tensor) -> Tensor:
        """-cos(g, m_S) without eta, [b]: what `least_conflicts` starts from; 0 for a zero gradient."""
        if self._unit is None:
            return torch.zeros_like(norms)
        return torch.where(norms > 0, -products / (norms * self._length), 0.0).clamp(-1.0, 1.0)

    def allowance(self) -> float:
        """How much the eta in the denominator can take from a conflict now, whatever the row."""
        if self._unit is None:
            return _ANY_TURN
        return ETA / (self._smallest_norm * self._length / self._count + ETA)
