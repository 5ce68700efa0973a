"""The Gram matrix of one candidate pool: checked once, decomposed at most once, shared by everything computed from it.

Contract: a `Gram` is float64 on the CPU and never changes. Whatever takes a Gram matrix also takes a `Gram`, and then
checks nothing again.

    pool = scale_gram(gradients @ gradients.T, gradient_scales("sqrt-length", lengths, squared_norms))
    pool = principal_gram(pool, principal_rank(budget))
    selection = select_from_gram(pool, budget, relative_alpha(pool, 1.0))
"""

import math
from functools import cached_property
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from spice_select.information.checks import (
    MatrixLike,
    SelectionInputError,
    read_budget,
    read_matrix,
    read_number,
    read_vector,
    refuse_first,
)

_TOLERANCE = 1e-4  # float32 sums over millions of terms stay well inside it
_UNDERFLOW = 1e-12  # of the largest diagonal entry: what a squared norm below float32's range may leave behind


MOST_DIRECTIONS = 16
"""Largest rank that `principal_rank` gives; docs/study.md says what was tried."""

Scale = Literal["none", "sqrt-length", "geometric", "unit"]


class Spectrum(NamedTuple):
    """Eigenvalues (ascending, rounding below zero removed) and eigenvectors (columns) of a Gram matrix or moment."""

    values: Tensor  # [m]
    vectors: Tensor  # [m, m]


class Gram:
    """A symmetric Gram matrix K_ij = <g_i, g_j>; its original dtype excuses relative rounding up to `tolerance`."""

    def __init__(self, matrix: Tensor, tolerance: float, spectrum: Spectrum | None = None):
        """Hold `matrix` [m, m] and its decomposition, where that is known already."""
        self.matrix, self.tolerance = matrix, tolerance
        if spectrum is not None:
            self.spectrum = spectrum

    @property
    def squared_norms(self) -> Tensor:
        """|g|^2 of every row, [m]."""
        return self.matrix.diagonal()

    def part(self, rows: int) -> "Gram":
        """The matrix of the first `rows` rows."""
        return Gram(self.matrix[:rows, :rows], self.tolerance)

    @cached_property
    def spectrum(self) -> Spectrum:
        """The eigendecomposition of the matrix.

        Raises `SelectionInputError` if the lowest eigenvalue is further below zero than rounding explains.
        """
        values, vectors = cast(tuple[Tensor, Tensor], torch.linalg.eigh(self.matrix))
        lowest, highest = float(values[0]), float(values[-1])
        if lowest < -self.tolerance * max(highest, 0.0):
            raise SelectionInputError(
                f"gram is not positive semidefinite: eigenvalues run from {lowest:.3g} to {highest:.3g}. "
                "Pass inner products gradients @ gradients.T (not distances), accumulated in float32 or better."
            )
        return Spectrum(values.clamp(min=0.0), vectors)


GramLike = MatrixLike | Gram
"""A Gram matrix as users hold one, or one that was checked before."""


def read_gram(gram: GramLike) -> Gram:
    """Check everything about a Gram matrix that needs no eigenvalues, and hold it in float64.

    Rounding is forgiven up to 1e-4 of |g_i| |g_j| (4 units of rounding for half precisions), then removed by averaging
    the two triangles. Raises `SelectionInputError` if gram is no symmetric square matrix of real finite numbers, a
    squared norm is negative, or an inner product exceeds the product of its norms.
    """
    if isinstance(gram, Gram):
        return gram
    raw = read_matrix(gram, "gram", "m x m")
    if raw.ndim != 2 or raw.shape[0] != raw.shape[1]:
        raise SelectionInputError(
            f"gram has shape {tuple(raw.shape)}; pass the m x m inner products, gradients @ gradients.T."
        )
    if raw.shape[0] == 0:
        raise SelectionInputError("gram is empty (0 x 0); pass at least one example.")
    tolerance = max(_TOLERANCE, 4 * torch.finfo(raw.dtype).eps) if raw.is_floating_point() else _TOLERANCE
    matrix = raw.to(device="cpu", dtype=torch.float64)
    diagonal = matrix.diagonal()
    norms = diagonal.clamp(min=0.0).sqrt()
    products = torch.outer(norms, norms)  # [m, m]
    slack = tolerance * products + _UNDERFLOW * diagonal.max()
    for bad, reason in (
        (~torch.isfinite(matrix), "not finite; find the example whose gradient overflowed and drop it"),
        (torch.diag(diagonal < 0), "a negative squared norm; pass inner products of gradients"),
        ((matrix - matrix.T).abs() > slack, "it differs from its mirror entry; pass a symmetric matrix"),
        (
            matrix.abs() > products + slack,
            "it exceeds the product of its two norms, so it is no inner product; pass gradients @ gradients.T",
        ),
    ):
        refuse_first("gram", matrix, bad, reason)
    return Gram((matrix + matrix.T) / 2, tolerance)


def gradient_scales(scale: Scale, lengths: MatrixLike, squared_norms: MatrixLike) -> Tensor:
    """The factor s_i of each gradient, [m] float64, from response `lengths` in tokens and |g_i|^2, [m] each.

    `scale` is "none" (1, the paper), "sqrt-length" (sqrt of the length: a mean over T tokens shrinks like 1/sqrt(T)
    when token gradients are nearly independent), "unit" (1/|g_i|, and 0 for a zero gradient), or "geometric" (the
    geometric mean of the last two: what is left of the norm after the length is its square root). Raises
    `SelectionInputError` for an unknown scale, lengths and norms of unequal number, or an impossible value.
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


def scale_gram(gram: GramLike, scales: Tensor) -> Gram:
    """The Gram matrix of the scaled gradients, s_i K_ij s_j.

    Raises `SelectionInputError` if gram cannot be used, or scales is not one finite number per row.
    """
    checked, factors = read_gram(gram), read_vector("scales", scales)
    size = len(checked.matrix)
    if len(factors) != size:
        raise SelectionInputError(f"{len(factors)} scales for a gram of {size} rows; pass one scale per row.")
    matrix = factors[:, None] * checked.matrix * factors[None, :]
    refuse_first("gram", matrix, ~torch.isfinite(matrix), "it overflowed when scaled; scale the gradients down")
    return Gram(matrix, checked.tolerance)


def principal_gram(gram: GramLike, rank: int) -> Gram:
    """The Gram matrix of the gradients projected on their top `rank` principal directions, V_r L_r V_r^T.

    `gram` holds the m x m inner products of (scaled) gradients, not centred; from rank m on it comes back as it is.
    Raises `SelectionInputError` if gram or rank cannot be used.
    """
    checked = read_gram(gram)
    count = read_budget(min(rank, len(checked.matrix)), len(checked.matrix))
    if count == len(checked.matrix):
        return checked
    values, vectors = checked.spectrum
    kept = values.clone()
    kept[:-count] = 0.0
    factor = vectors[:, -count:] * kept[-count:].sqrt()  # [m, r]
    return Gram(torch.mm(factor, factor.T), checked.tolerance, Spectrum(kept, vectors))


def principal_rank(budget: int) -> int:
    """Directions for so many picks: half their number, at least 1 and at most `MOST_DIRECTIONS`."""
    return min(max(budget // 2, 1), MOST_DIRECTIONS)


def relative_alpha(gram: GramLike, a: float) -> float:
    """The absolute alpha = a / mean |g_i|^2, so that a = 1 means a mean base near log 2 whatever the model.

    When every gradient is zero there is nothing to relate to: `a` itself comes back; every gain is 0 anyway. Raises
    `SelectionInputError` if gram cannot be used, a is negative or not finite, or the quotient overflows.
    """
    mean = float(read_gram(gram).squared_norms.mean())
    number = read_number("a", a, "pass a finite number >= 0; 1.0 suits any model")
    alpha = number / mean if mean > 0 else number
    if not math.isfinite(alpha):
        raise SelectionInputError(f"a / mean squared norm overflows ({number:g} / {mean:g}); scale the gradients up.")
    return alpha


def gram_features(gram: GramLike) -> Tensor:
    """Vectors [m, r] float64 whose inner products are the Gram matrix of rank r."""
    values, vectors = read_gram(gram).spectrum
    present = values > 0
    return vectors[:, present] * values[present].sqrt()


def largest_norms(gram: GramLike, budget: int) -> list[int]:
    """The `budget` rows with the largest |g|, largest first; ties go to the lower index."""
    squared_norms = read_gram(gram).squared_norms
    count = read_budget(budget, len(squared_norms))
    return [int(row) for row in squared_norms.argsort(descending=True, stable=True)[:count]]
