"""What the rows picked so far have cost every row: the running state of a greedy selection that looks at all of them.

Contract: exact in float64, O(t m) for pick t; gains never rise and never fall below 0.
With M = (I + alpha F_S)^-1, the residual of row i is alpha g_i^T M g_i and its gain log(1 + residual). Adding
x lowers each residual by the square of (alpha g_i^T M g_x) / sqrt(1 + residual_x), a new row of `_factor`.
"""

import torch
from torch import Tensor

from spice_select.information.objective import conflicts

_NO_DIRECTION = 4 * torch.finfo(torch.float64).eps


class Interaction:
    """Gains and conflicts of all m rows with respect to the rows added so far."""

    def __init__(self, squares: Tensor, alpha: float, capacity: int):
        """Start with nothing added.

        Args:
            squares: [m] |g_i|^2, float64.
            alpha: absolute.
            capacity: the largest number of rows that will be added.

        """
        self._alpha = alpha
        self._squares = squares
        self._norms = squares.sqrt()
        self._residuals = alpha * squares
        self._factor = squares.new_zeros(capacity, len(squares))  # [capacity, m]
        self._products = torch.zeros_like(self._norms)  # <g_i, sum of S>
        self._sum_square = 0.0  # |sum of S|^2
        self._norm_squares = 0.0  # sum of |g_y|^2 over S
        self._count = 0

    def gains(self) -> Tensor:
        """D_x(S) for every row, [m], in nats."""
        return torch.log1p(self._residuals)

    def conflicts(self) -> Tensor:
        """max(0, -cos(g_x, m_S)) for every row, [m]; all 0 while S is empty or its gradients cancel."""
        # A sum that is zero up to rounding has no direction, and its cosines would be noise.
        if self._sum_square <= _NO_DIRECTION * self._count * self._norm_squares:
            return torch.zeros_like(self._norms)
        mean_norm = self._sum_square**0.5 / self._count
        return conflicts(self._products / self._count, self._norms, mean_norm)

    def add(self, row: int, products: Tensor) -> None:
        """Add one row to S, given its inner products [m] with all rows."""
        earlier = self._factor[: self._count]  # [t, m]
        update = self._factor[self._count]
        torch.sub(self._alpha * products, earlier[:, row] @ earlier, out=update)  # alpha g_i^T M g_row
        update /= (1.0 + float(self._residuals[row])) ** 0.5
        self._residuals = torch.addcmul(self._residuals, update, update, value=-1.0).clamp_(min=0.0)
        norm_square = float(self._squares[row])
        self._sum_square += 2.0 * float(self._products[row]) + norm_square
        self._norm_squares += norm_square
        self._products = self._products + products
        self._count += 1
