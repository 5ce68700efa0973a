"""Rows whose loss or gradient is not finite, marked among squared norms from the backward pass to the files.

A squared norm is NaN where the row's loss is not finite, and infinite where only its gradient is not. Squares are
summed in float32, so a gradient longer than 1.8e19 counts as not finite.
"""

import math

import torch
from torch import Tensor

LOSS, GRADIENT = "its loss is not finite", "its gradient is not finite"


def marked_squared_norms(squared_norms: Tensor, losses: Tensor) -> Tensor:
    """Squared norms [n] with the unusable rows marked, from the rows' losses [n]."""
    known = torch.where(torch.isfinite(squared_norms), squared_norms, torch.inf)
    return torch.where(torch.isfinite(losses), known, torch.nan)


def marked_gram(gram: Tensor, losses: Tensor) -> Tensor:
    """A Gram matrix [m, m] in which row and column of an unusable row hold its mark, from the rows' losses [m]."""
    squared_norms = marked_squared_norms(gram.diagonal(), losses)
    bad = ~torch.isfinite(squared_norms)
    if not bool(bad.any()):
        return gram
    result = torch.where(bad[:, None], squared_norms[:, None], gram)
    return torch.where(bad[None, :], squared_norms[None, :], result)


def problem(squared_norm: float) -> str:
    """What is wrong with a row of this marked squared norm."""
    return LOSS if math.isnan(squared_norm) else GRADIENT
