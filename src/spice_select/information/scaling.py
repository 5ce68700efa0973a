"""How gradients are scaled before they are compared.

Contract: pure functions. Scaling by s turns g_i into s_i g_i, and a Gram matrix K into s_i K_ij s_j.
"""

from typing import Literal

import torch
from torch import Tensor

from spice_select.information.checks import MatrixLike, SelectionInputError, read_vector, refuse_first

Scale = Literal["none", "sqrt-length", "geometric", "unit"]


def gradient_scales(scale: Scale, lengths: MatrixLike, squared_norms: MatrixLike) -> Tensor:
    """The factor s_i of each gradient.

    Args:
        scale: "none" (1, the paper), "sqrt-length" (sqrt of the response length: a mean over T tokens shrinks
            like 1/sqrt(T) when token gradients are nearly independent), "unit" (1/|g_i|, and 0 for a zero
            gradient), or "geometric" (the geometric mean of sqrt-length and unit: what is left of the norm after
            the length is its square root).
        lengths: [m] response lengths in tokens, each at least 1.
        squared_norms: [m] |g_i|^2, unscaled.

    Returns:
        [m] float64.

    Raises:
        SelectionInputError: an unknown scale, lengths or norms of unequal number, or an impossible value.

    """
    tokens, squared = read_vector("lengths", lengths), read_vector("squared_norms", squared_norms)
    if tokens.shape != squared.shape:
        raise SelectionInputError(
            f"{len(tokens)} lengths for {len(squared)} squared norms; pass one of each per example."
        )
    refuse_first("lengths", tokens, tokens < 1, "a response holds at least 1 token; drop the example")
    refuse_first("squared_norms", squared, squared < 0, "a squared norm is >= 0; pass the diagonal of the Gram matrix")
    unit = torch.where(squared > 0, squared.rsqrt(), 0.0)
    choices = {
        "none": torch.ones_like(squared),
        "sqrt-length": tokens.sqrt(),
        "geometric": (tokens.sqrt() * unit).sqrt(),
        "unit": unit,
    }
    if scale not in choices:
        raise SelectionInputError(f"scale is {scale!r}; choose none, sqrt-length, geometric or unit.")
    return choices[scale]
