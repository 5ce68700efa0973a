"""The mean direction m_S of a growing set, the conflict of rows with it, and how far it has turned.

Contract: exact in float64. A cosine changes by no more than the unit vector of m_S has moved. So an earlier conflict of
a row bounds its conflict now: the earlier value minus the length of the path that the unit vector has gone since.
"""

import torch
from torch import Tensor

ETA = 1e-8
"""Added to the denominator of every cosine, as in the paper."""

CANCELLED = 1e-5
"""A mean is taken for zero if it is at most this much of the vectors' root mean square: inner products lose it."""

_ANY_TURN = 2.0  # the most by which a cosine can change


def has_direction(sum_square: float, count: int, norm_squares: float) -> bool:
    """Whether the mean of S has one, given |sum of S|^2, |S| and the sum of |g|^2; else its cosines would be noise."""
    return sum_square > CANCELLED**2 * count * norm_squares


def conflicts(products: Tensor, norms: Tensor, mean_norm: float) -> Tensor:
    """max(0, -cos(g_x, m_S)) for every x, [m], from <g_x, m_S> [m], |g_x| [m] and |m_S|."""
    return (0.0 - products).div_(norms.mul(mean_norm).add_(ETA)).clamp_(0.0, 1.0)


class MeanDirection:
    """The sum of the gradients of S, and `path`, the length of the way that its unit vector has gone."""

    def __init__(self, dim: int, device: torch.device):
        """Start with the empty set."""
        self.sum = torch.zeros(dim, dtype=torch.float64, device=device)  # [d]
        self.path = 0.0
        self._unit: Tensor | None = None  # [d]; None while S is empty or its gradients cancel
        self._count = 0
        self._length = 0.0  # |sum|
        self._norm_squares = 0.0  # sum of |g|^2 over S

    def add(self, vectors: Tensor) -> None:
        """Add gradients [b, d]."""
        self.sum += vectors.sum(dim=0)
        self._count += len(vectors)
        self._norm_squares += float(vectors.square().sum())
        square = float(self.sum @ self.sum)
        self._length = square**0.5
        unit = self.sum / self._length if has_direction(square, self._count, self._norm_squares) else None
        self.path += _ANY_TURN if unit is None or self._unit is None else float((unit - self._unit).norm())
        self._unit = unit

    def conflicts(self, products: Tensor, norms: Tensor) -> Tensor:
        """max(0, -cos(g, m_S)) from <g, sum of S> and |g|, both [b]; all 0 while there is no direction."""
        if self._unit is None:
            return torch.zeros_like(norms)
        return conflicts(products / self._count, norms, self._length / self._count)

    def opposition(self, products: Tensor, norms: Tensor) -> Tensor:
        """-cos(g, m_S) without eta, [b], from which bounds on later conflicts start; 0 for a zero gradient."""
        if self._unit is None:
            return torch.zeros_like(norms)
        return torch.where(norms > 0, -products / (norms * self._length), 0.0).clamp(-1.0, 1.0)

    def allowance(self, smallest_norm: float) -> float:
        """The most that eta in the denominator can take from the conflict of a row of at least this norm, or of 0."""
        if self._unit is None:
            return _ANY_TURN
        return ETA / (smallest_norm * self._length / self._count + ETA)
