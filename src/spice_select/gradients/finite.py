"""Rows whose loss or gradient is not finite, marked among squared norms from the backward pass to the files.

A squared norm is NaN where the row's loss is not finite, and infinite where its gradient is not although its loss is;
squares are summed in float32, so a gradient longer than 1.8e19 counts as not finite.
"""

import math

import torch
from torch import Tensor

LOSS, GRADIENT = "its loss is not finite", "its gradient is not finite"


def marked_squares(squares: Tensor, losses: Tensor) -> Tensor:
    """Squared norms [n] with the rows marked that cannot be used, from their losses [n]."""
    known = torch.where(torch.isfinite(squares), squares, torch.inf)
    return torch.where(torch.isfinite(losses), known, torch.nan)


def marked_gram(gram: Tensor, losses: Tensor) -> Tensor:
    """A Gram matrix [m, m] in which row and column of a row that cannot be used hold its mark, from losses [m]."""
    squares = marked_squares(gram.diagonal(), losses)
    bad = ~torch.isfinite(squares)
    if not bool(bad.any()):
        return gram
    result = torch.where(bad[:, None], squares[:, None], gram)
    return torch.where(bad[None, :], squares[None, :], result)


def problem(square: float) -> str:
    """What is wrong with a row of this marked squared norm."""
    return LOSS if math.isnan(square) else GRADIENT
