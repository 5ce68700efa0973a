"""Rows whose loss or features are not finite, marked among squared norms from the model's pass to the files.

A squared norm is NaN where the row's loss is not finite, and infinite where only its features are not. Squares are
summed in float32, so features longer than 1.8e19 count as not finite.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LOSS, GRADIENT = "its loss is not finite", "its gradient is not finite"


class RowFeatures(NamedTuple):
    """Features [n, d], their squared norms before any projection [n], and losses [n], of n rows; float32 on the CPU.

    A row whose loss or features are not finite has features of zero, and as squared norm its mark. Losses are NaN
    where none are computed.
    """

    features: Tensor
    squared_norms: Tensor
    losses: Tensor


def in_order(parts: Sequence[tuple[Tensor, ...]], batches: Sequence[Sequence[int]]) -> list[Tensor]:
    """Tensors of the rows of `batches`, each joined in the order of the rows, on the CPU."""
    place = torch.tensor([row for batch in batches for row in batch]).argsort()
    return [torch.cat([part.cpu() for part in each])[place] for each in zip(*parts, strict=True)]


def marked(features: Tensor, squared_norms: Tensor, losses: Tensor) -> RowFeatures:
    """Features [n, d], squared norms [n] and losses [n], with the unusable rows marked and their features zero."""
    overflowed = ~torch.isfinite(features.square().sum(dim=1))
    squared_norms = marked_squared_norms(squared_norms.masked_fill(overflowed, torch.inf), losses)
    features[~torch.isfinite(squared_norms)] = 0.0
    return RowFeatures(features, squared_norms, losses)


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


def problem(squared_norm: float, noun: str = "gradient") -> str:
    """What is wrong with a row of this marked squared norm; `noun` is what its features are called."""
    return LOSS if math.isnan(squared_norm) else f"its {noun} is not finite"
