"""Reads what a caller passes in and refuses, by name and place, what the mathematics cannot use.

Contract: functions here return checked Python numbers or float64 CPU tensors and never change their input.
Every refusal is a `SelectionInputError` that says what is wrong, where, and what to do.
"""

import math
import operator
from collections.abc import Iterable
from typing import NamedTuple, SupportsIndex, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

GramLike = Tensor | npt.ArrayLike
"""A Gram matrix as users hold one: a tensor of any device, a numpy array, or nested sequences of numbers."""

_TOLERANCE = 1e-4  # float32 sums over millions of terms stay well inside it
LARGEST_REACH = 1e14
"""Most that alpha |g|^2 may be: gains are exact to about 1e-15 of it, so here they still mean something."""

_UNDERFLOW = 1e-12  # of the largest diagonal entry: what a squared norm below float32's range may leave behind


class SelectionInputError(ValueError):
    """A matrix, budget or number handed to `spice_select.information` cannot be used as it is."""


class CheckedGram(NamedTuple):
    """A symmetric float64 Gram matrix on the CPU, and the relative rounding its original dtype excuses."""

    matrix: Tensor  # [m, m]
    tolerance: float


class Spectrum(NamedTuple):
    """Eigenvalues (ascending, rounding below zero removed) and eigenvectors (columns) of a Gram matrix."""

    values: Tensor  # [m]
    vectors: Tensor  # [m, m]


def read_gram(gram: GramLike) -> CheckedGram:
    """Check everything about a Gram matrix that needs no eigenvalues, and return it in float64.

    Rounding is forgiven up to 1e-4 of |g_i| |g_j| (4 units of rounding for half precisions), then removed by
    averaging the two triangles.

    Raises:
        SelectionInputError: not a square matrix of real finite numbers, a negative squared norm, not
            symmetric, or an inner product larger than the product of its norms.

    """
    raw = gram.detach() if isinstance(gram, Tensor) else _tensor_from_array(gram, "gram", "m x m")
    if raw.is_complex() or raw.dtype == torch.bool:
        raise SelectionInputError(f"gram holds {raw.dtype}; pass real numbers.")
    if raw.ndim != 2 or raw.shape[0] != raw.shape[1]:
        raise SelectionInputError(
            f"gram has shape {tuple(raw.shape)}; pass the m x m inner products, gradients @ gradients.T."
        )
    if raw.shape[0] == 0:
        raise SelectionInputError("gram is empty (0 x 0); pass at least one example.")
    tolerance = max(_TOLERANCE, 4 * torch.finfo(raw.dtype).eps) if raw.is_floating_point() else _TOLERANCE
    matrix = raw.to(device="cpu", dtype=torch.float64)
    _refuse_first(
        ~torch.isfinite(matrix),
        matrix,
        "is not finite; find the example whose gradient overflowed and drop it",
    )
    diagonal = matrix.diagonal()
    _refuse_first(torch.diag(diagonal < 0), matrix, "is a negative squared norm; pass inner products of gradients")
    norms = diagonal.sqrt()
    products = torch.outer(norms, norms)  # [m, m]
    slack = tolerance * products + _UNDERFLOW * diagonal.max()
    _refuse_first((matrix - matrix.T).abs() > slack, matrix, "differs from its mirror entry; pass a symmetric matrix")
    _refuse_first(
        matrix.abs() > products + slack,
        matrix,
        "exceeds the product of its two norms, so it is no inner product; pass gradients @ gradients.T",
    )
    return CheckedGram((matrix + matrix.T) / 2, tolerance)


def read_features(features: GramLike) -> Tensor:
    """Check the form of n x d features and return them as a tensor, in their own type and place.

    Raises:
        SelectionInputError: not two axes of real numbers, or no row or no column.

    """
    raw = features.detach() if isinstance(features, Tensor) else _tensor_from_array(features, "features", "n x d")
    if raw.is_complex() or raw.dtype == torch.bool:
        raise SelectionInputError(f"features hold {raw.dtype}; pass real numbers.")
    if raw.ndim != 2 or 0 in raw.shape:
        raise SelectionInputError(f"features have shape {tuple(raw.shape)}; pass n x d numbers, one row per example.")
    return raw


def spectrum(gram: CheckedGram) -> Spectrum:
    """Eigenvalues and eigenvectors of a Gram matrix, refusing one that is not positive semidefinite.

    Raises:
        SelectionInputError: the lowest eigenvalue is further below zero than rounding explains.

    """
    values, vectors = cast(tuple[Tensor, Tensor], torch.linalg.eigh(gram.matrix))
    lowest, highest = float(values[0]), float(values[-1])
    if lowest < -gram.tolerance * max(highest, 0.0):
        raise SelectionInputError(
            f"gram is not positive semidefinite: eigenvalues run from {lowest:.3g} to {highest:.3g}. "
            "Pass inner products gradients @ gradients.T (not distances), accumulated in float32 or better."
        )
    return Spectrum(values.clamp(min=0.0), vectors)


def read_alpha(alpha: float, matrix: Tensor) -> float:
    """`read_absolute_alpha` of the rows of a Gram matrix."""
    return read_absolute_alpha(alpha, matrix.diagonal())


def read_absolute_alpha(alpha: float, squares: Tensor) -> float:
    """Check alpha: finite, not negative, and times each of `squares` [n] = |g|^2 small enough for float64.

    Raises:
        SelectionInputError: it is not; the message says which, and how large it may be.

    """
    number = read_number("alpha", alpha, "pass a finite number >= 0, for example relative_alpha(gram, 1.0)")
    reach = float(squares.sum()) * len(squares)  # no sum of inner products is larger
    if not (math.isfinite(reach) and math.isfinite(number * reach)):
        raise SelectionInputError(
            f"alpha times the squared gradients overflows float64 (alpha = {number:g}); scale the gradients down."
        )
    row = int(squares.argmax())
    if number * float(squares[row]) > LARGEST_REACH:
        raise SelectionInputError(
            f"alpha times the squared norm of row {row} is {number * float(squares[row]):.3g}; beyond "
            f"{LARGEST_REACH:g} float64 cannot tell what rows add to each other. Lower alpha, or scale the gradients."
        )
    return number


def read_number(name: str, value: float, remedy: str) -> float:
    """Return a finite number >= 0 as float, or say which argument is not one."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise SelectionInputError(f"{name} is {value!r}; {remedy}.") from error
    if not math.isfinite(number) or number < 0:
        raise SelectionInputError(f"{name} is {value!r}; {remedy}.")
    return number


def read_penalty(penalty: float) -> float:
    """Check lambda, the weight of the conflict (finite, not negative)."""
    return read_number("penalty", penalty, "pass a finite number >= 0 (0 is information alone, 0.1 the paper's)")


def read_stop_ratio(stop_ratio: float | None) -> float | None:
    """Check omega, the early-stop ratio: None (never stop) or a number in (0, 1]."""
    if stop_ratio is None:
        return None
    remedy = "pass a number in (0, 1], or None to fill the budget"
    number = read_number("stop_ratio", stop_ratio, remedy)
    if not 0 < number <= 1:
        raise SelectionInputError(f"stop_ratio is {stop_ratio!r}; {remedy}.")
    return number


def read_count(name: str, value: SupportsIndex) -> int:
    """Return a whole number >= 1 as int; 10.0 and True are refused, since they are rarely meant."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise SelectionInputError(f"{name} is {value!r}; pass a whole number >= 1, such as int({name}).") from error
    if isinstance(value, bool) or number < 1:
        raise SelectionInputError(f"{name} is {value!r}; pass a whole number >= 1.")
    return number


def read_budget(budget: SupportsIndex, size: int, holder: str = "gram holds") -> int:
    """Check a budget: a whole number from 1 to the number of examples."""
    number = read_count("budget", budget)
    if number > size:
        raise SelectionInputError(f"budget is {number}, but {holder} {size} examples; lower it to at most {size}.")
    return number


def read_order(order: Iterable[SupportsIndex], size: int) -> list[int]:
    """Check a list of distinct row numbers of a Gram matrix with `size` rows; it may not be empty."""
    try:
        rows = [operator.index(row) for row in order]
    except TypeError as error:
        raise SelectionInputError("order must be a list of whole row numbers, such as [4, 0, 7].") from error
    if not rows:
        raise SelectionInputError("order is empty; name at least one row.")
    seen: set[int] = set()
    for place, row in enumerate(rows):
        if not 0 <= row < size:
            raise SelectionInputError(f"order[{place}] is {row}, but gram has rows 0 to {size - 1}; name one of those.")
        if row in seen:
            raise SelectionInputError(f"order[{place}] repeats row {row}; name each row once.")
        seen.add(row)
    return rows


def _tensor_from_array(values: npt.ArrayLike, name: str, shape: str) -> Tensor:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise SelectionInputError(f"{name} has rows of unequal length; pass {shape} numbers.") from error
    if array.dtype.kind not in "fiu":
        raise SelectionInputError(f"{name} holds {array.dtype} values; pass {shape} real numbers.")
    floating = array.dtype.kind == "f" and array.dtype.itemsize <= 8
    native = array.dtype.newbyteorder("=") if floating else np.dtype(np.float64)
    # A copy in C order, because torch refuses negative strides and foreign byte orders.
    return torch.from_numpy(np.array(array, dtype=native, order="C"))


def _refuse_first(bad: Tensor, matrix: Tensor, reason: str) -> None:
    if bool(bad.any()):
        row, column = (int(place) for place in bad.nonzero()[0])
        raise SelectionInputError(f"gram[{row}, {column}] = {float(matrix[row, column]):g} {reason}.")
