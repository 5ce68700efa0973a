"""The greedy engine on a Gram matrix: every row's gain and conflict is brought up to date after every pick.

Contract: exact in float64, O(t m) for pick t; gains never rise and never fall below 0.
With M = (I + alpha F_S)^-1, the residual of row i is alpha g_i^T M g_i and its gain log(1 + residual). Adding
x lowers each residual by the square of (alpha g_i^T M g_x) / sqrt(1 + residual_x), a new row of `_factor`.
"""

import torch
from torch import Tensor

from spice_select.information.greedy import Pick, Ties
from spice_select.information.mean_direction import conflicts, has_direction


class GramEngine:
    """An `Engine` on a Gram matrix [m, m]; `gains` and `conflicts`, [m] each, are those of the present S."""

    def __init__(self, matrix: Tensor, alpha: float, penalty: float, capacity: int):
        """Start with S empty; at most `capacity` rows will be added."""
        self._matrix, self._alpha, self._penalty = matrix, alpha, penalty
        self._norms = matrix.diagonal().sqrt()
        self._residuals = alpha * matrix.diagonal()
        self._factor = matrix.new_zeros(capacity, len(matrix))  # [capacity, m]
        self._products = torch.zeros_like(self._norms)  # <g_i, sum of S>
        self._sum_square = 0.0  # |sum of S|^2
        self._norm_squares = 0.0  # sum of |g_y|^2 over S
        self._count = 0
        self._rows = torch.arange(len(matrix), device=matrix.device)
        self._closed = torch.zeros_like(self._norms)  # -inf for closed rows
        self.gains, self.conflicts = torch.log1p(self._residuals), torch.zeros_like(self._norms)
        self._reach = float(self._residuals.max())
        self.history = [self.gains]
        """Gains [m] before each pick and after the last."""

    def best_row(self) -> int | None:
        """As `Engine.best_row`."""
        ties = Ties(self._reach, self._penalty)
        scores = self.gains - self._penalty * self.conflicts
        ties.offer(self._rows, scores + self._closed, self.conflicts)
        return ties.lowest()

    def take(self, row: int, least_gain: float) -> Pick | None:
        """As `Engine.take`."""
        pick = Pick(row, float(self.gains[row]), float(self.conflicts[row]))
        if pick.gain <= least_gain:
            return None
        products = self._matrix[row]
        earlier = self._factor[: self._count]  # [t, m]
        update = self._factor[self._count]
        torch.sub(self._alpha * products, earlier[:, row] @ earlier, out=update)  # alpha g_i^T M g_row
        update /= (1.0 + float(self._residuals[row])) ** 0.5
        self._residuals = torch.addcmul(self._residuals, update, update, value=-1.0).clamp_(min=0.0)
        norm_square = float(products[row])
        self._sum_square += 2.0 * float(self._products[row]) + norm_square
        self._norm_squares += norm_square
        self._products = self._products + products
        self._count += 1
        self.gains, self.conflicts = torch.log1p(self._residuals), torch.zeros_like(self._norms)
        if has_direction(self._sum_square, self._count, self._norm_squares):
            mean_norm = self._sum_square**0.5 / self._count
            self.conflicts = conflicts(self._products / self._count, self._norms, mean_norm)
        self._closed[row] = -torch.inf
        self.history.append(self.gains)
        return pick

    def close(self, rows: Tensor) -> None:
        """As `Engine.close`."""
        self._closed[rows] = -torch.inf
