"""The gradients nearest to the pool's mean direction: the most typical rows.

The mean is over unit gradients, so that every row has one vote whatever its norm.
"""

from typing import cast

import torch
from torch import Tensor


def cosines(gram: Tensor) -> Tensor:
    """Cosines between all gradients, [m, m] float64; 0 for a zero gradient."""
    squared_norms = gram.double().diagonal()
    scales = torch.where(squared_norms > 0, squared_norms.clamp(min=0).rsqrt(), 0.0)
    return scales[:, None] * gram.double() * scales[None, :]


def pick(gram: Tensor, count: int) -> list[int]:
    """The `count` rows with the highest cosine to the mean of all unit gradients; ties go to the lower row."""
    # <u_i, mean u>; the norm of the mean divides all alike and changes no order.
    to_mean = cosines(gram).mean(dim=1)
    return cast(list[int], to_mean.argsort(descending=True, stable=True)[:count].tolist())
