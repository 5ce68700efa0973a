"""Greedy MAP of a determinantal point process on unit gradients (Chen et al., NeurIPS 2018): diversity alone.

The kernel is the matrix of cosines, and each pick multiplies det(L_S) by the most: its squared distance to the span of
the picks before it. Rows already in that span add nothing and come last, by row.
"""

import torch
from torch import Tensor

from spice_select.methods.cosine import cosines

RESIDUAL_FLOOR = 1e-10
"""Squared distances of unit vectors below this are rounding."""

TIE = 1e-12
"""Distances closer than this differ by rounding alone; all rows tie at the first pick."""


def pick(gram: Tensor, count: int) -> list[int]:
    """`count` rows of the Gram matrix [m, m] in greedy order; ties go to the lower row; a zero gradient comes last."""
    kernel = cosines(gram)
    residuals = kernel.diagonal().clone()  # [m] squared distance to the span of the picks
    factors = kernel.new_zeros(count, len(kernel))
    picks: list[int] = []
    for step in range(count):
        row = int((residuals >= residuals.max() - TIE).nonzero()[0])
        if residuals[row] <= RESIDUAL_FLOOR:
            break
        earlier = factors[:step]
        factors[step] = (kernel[row] - earlier[:, row] @ earlier) / residuals[row].sqrt()
        residuals = residuals - factors[step].square()
        residuals[row] = -torch.inf
        picks.append(row)
    taken = set(picks)
    return picks + [row for row in range(len(kernel)) if row not in taken][: count - len(picks)]
