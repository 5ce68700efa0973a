"""How gradients are scaled before they are compared, and alpha relative to the pool.

Contract: pure functions. Scaling by s turns g_i into s_i g_i, so a Gram matrix K into s_i K_ij s_j.
"""

import math
from typing import Literal

import numpy.typing as npt
import torch
from torch import Tensor

from spice_select.information.validation import GramLike, SelectionInputError, read_gram, read_number

Scale = Literal["none", "sqrt-length", "geometric", "unit"]


def gradient_scales(scale: Scale, lengths: Tensor | npt.ArrayLike, squared_norms: Tensor | npt.ArrayLike) -> Tensor:
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
    tokens = _vector("lengths", lengths)
    squares = _vector("squared_norms", squared_norms)
    if tokens.shape != squares.shape:
        raise SelectionInputError(
            f"{len(tokens)} lengths for {len(squares)} squared norms; pass one of each per example."
        )
    _refuse_first("lengths", tokens, tokens < 1, "a response holds at least 1 token; drop the example")
    _refuse_first("squared_norms", squares, squares < 0, "a squared norm is >= 0; pass the diagonal of the Gram matrix")
    if scale == "none":
        return torch.ones_like(squares)
    if scale == "sqrt-length":
        return tokens.sqrt()
    unit = torch.where(squares > 0, squares.rsqrt(), 0.0)
    if scale == "geometric":
        return (tokens.sqrt() * unit).sqrt()
    if scale == "unit":
        return unit
    raise SelectionInputError(f"scale is {scale!r}; choose none, sqrt-length, geometric or unit.")


def scale_gram(gram: GramLike, scales: Tensor) -> Tensor:
    """The Gram matrix of the scaled gradients, s_i K_ij s_j, [m, m] float64 on the CPU.

    Raises:
        SelectionInputError: gram cannot be used, or scales is not one finite number per row.

    """
    matrix = read_gram(gram).matrix
    factors = _vector("scales", scales)
    if len(factors) != len(matrix):
        raise SelectionInputError(f"{len(factors)} scales for a gram of {len(matrix)} rows; pass one scale per row.")
    return factors[:, None] * matrix * factors[None, :]


def relative_alpha(gram: GramLike, a: float) -> float:
    """The absolute alpha = a / mean |g_i|^2, so that a = 1 means a mean base near log 2 whatever the model.

    When every gradient is zero there is nothing to relate to: `a` itself comes back; every gain is 0 anyway.

    Raises:
        SelectionInputError: gram cannot be used, a is negative or not finite, or the quotient overflows.

    """
    mean = float(read_gram(gram).matrix.diagonal().mean())
    number = read_number("a", a, "pass a finite number >= 0; 1.0 suits any model")
    alpha = number / mean if mean > 0 else number
    if not math.isfinite(alpha):
        raise SelectionInputError(f"a / mean squared norm overflows ({number:g} / {mean:g}); scale the gradients up.")
    return alpha


def _vector(name: str, values: Tensor | npt.ArrayLike) -> Tensor:
    vector = torch.as_tensor(values).detach().to(device="cpu", dtype=torch.float64)
    if vector.ndim != 1:
        raise SelectionInputError(f"{name} has shape {tuple(vector.shape)}; pass one number per example.")
    _refuse_first(name, vector, ~torch.isfinite(vector), "pass finite numbers")
    return vector


def _refuse_first(name: str, values: Tensor, bad: Tensor, reason: str) -> None:
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise SelectionInputError(f"{name}[{row}] is {float(values[row]):g}: {reason}.")
