"""Gradients as AdamW would step by them: what its moments make of a row's gradient (LESS, arXiv 2402.04333).

(b1 m + (1 - b1) g) / sqrt(b2 v + (1 - b2) g^2 + eps), element by element, with the moments m and v that AdamW has after
the warm-up; eps is inside the root, and no bias is corrected.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8

FIRST, SECOND = "exp_avg", "exp_avg_sq"
"""AdamW's names for m and v."""


class Preconditioner:
    """What AdamW's moments make of gradients."""

    def __init__(self, moments: Mapping[str, Tensor]) -> None:
        """`moments` holds `exp_avg.NAME` and `exp_avg_sq.NAME` for every factor, each of its weight's shape."""
        self._first = _parts(moments, FIRST, BETA_1)
        self._second = {name: part + EPSILON for name, part in _parts(moments, SECOND, BETA_2).items()}

    def __call__(self, name: str, gradients: Tensor) -> Tensor:
        """The gradients [b, p] of one factor, preconditioned, [b, p] float32."""
        g = gradients.float()
        root = (self._second[name] + (1 - BETA_2) * g.square()).sqrt_()
        result = ((1 - BETA_1) * g).add_(self._first[name]).div_(root)
        return result.masked_fill_(root.isinf(), torch.nan)  # the square overflowed: not 0


def _parts(moments: Mapping[str, Tensor], key: str, decay: float) -> dict[str, Tensor]:
    """A moment's factors by name, flattened, times `decay`."""
    return {
        name.removeprefix(f"{key}."): decay * tensor.flatten()
        for name, tensor in moments.items()
        if name.startswith(f"{key}.")
    }
