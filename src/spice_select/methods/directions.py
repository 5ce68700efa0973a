"""Gradients by direction alone."""

import torch
from torch import Tensor


def cosines(gram: Tensor) -> Tensor:
    """Cosines between all gradients, [m, m] float64; 0 for a zero gradient."""
    squares = gram.double().diagonal()
    scales = torch.where(squares > 0, squares.clamp(min=0).rsqrt(), 0.0)
    return scales[:, None] * gram.double() * scales[None, :]
