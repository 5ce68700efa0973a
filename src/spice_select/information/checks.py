"""Checks what a caller passes in and refuses, by name and place, what the mathematics cannot use.

Contract: functions here return checked Python numbers or tensors and never change their input. Every refusal is a
`SelectionInputError` that says what is wrong, where, and what to do.
"""

import math
import operator
from collections.abc import Iterable
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MatrixLike = Tensor | npt.ArrayLike
"""A matrix as users hold one: a tensor on any device, a numpy array, or nested sequences of numbers."""

ROUNDING = 1e-14
"""Each gain is exact to this times the largest alpha |g|^2 (docs/numbers.md)."""

LARGEST_REACH = 1e14
"""Most that alpha |g|^2 may be, so that gains still mean something."""


class SelectionInputError(ValueError):
    """A matrix, budget or number handed to `spice_select.information` cannot be used as it is."""


def read_matrix(values: MatrixLike, name: str, shape: str) -> Tensor:
    """Return real numbers as a tensor, in their own type and place; `shape` says what they should look like."""
    if isinstance(values, Tensor):
        if values.is_complex() or values.dtype == torch.bool:
            raise SelectionInputError(f"{name} holds {values.dtype}; pass real numbers.")
        return values.detach()
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


def read_features(features: MatrixLike, name: str = "features") -> Tensor:
    """Check the form of n x d features, and return them as a tensor, in their own type and place."""
    raw = read_matrix(features, name, "n x d")
    if raw.ndim != 2 or 0 in raw.shape:
        raise SelectionInputError(f"{name} have shape {tuple(raw.shape)}; pass n x d numbers, one row per example.")
    return raw


def read_alpha(alpha: float, squared_norms: Tensor, what: str = "row") -> float:
    """Check alpha: finite, not negative, and times each of `squared_norms` [n] small enough for float64.

    `what` names one of the rows that have these norms.
    """
    number = read_number("alpha", alpha, "pass a finite number >= 0, for example relative_alpha(gram, 1.0)")
    reach = float(squared_norms.sum()) * len(squared_norms)  # no sum of inner products is larger
    if not (math.isfinite(reach) and math.isfinite(number * reach)):
        raise SelectionInputError(
            f"alpha times the squared gradients overflows float64 (alpha = {number:g}); scale the gradients down."
        )
    row = int(squared_norms.argmax())
    if number * float(squared_norms[row]) > LARGEST_REACH:
        raise SelectionInputError(
            f"alpha times the squared norm of {what} {row} is {number * float(squared_norms[row]):.3g}; beyond "
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
    """Check a non-empty list of distinct row numbers of a Gram matrix with `size` rows."""
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


def read_vector(name: str, values: MatrixLike) -> Tensor:
    """Return one finite number per example as a float64 CPU tensor [m]."""
    vector = torch.as_tensor(values).detach().to(device="cpu", dtype=torch.float64)
    if vector.ndim != 1:
        raise SelectionInputError(f"{name} has shape {tuple(vector.shape)}; pass one number per example.")
    refuse_first(name, vector, ~torch.isfinite(vector), "pass finite numbers")
    return vector


def refuse_first(name: str, values: Tensor, bad: Tensor, reason: str) -> None:
    """Raise `SelectionInputError` for the first `bad` entry of `values`, if any; `reason` says why and what to do."""
    if bool(bad.any()):
        place = tuple(int(index) for index in bad.nonzero()[0])
        numbers = ", ".join(map(str, place))
        raise SelectionInputError(f"{name}[{numbers}] is {float(values[place]):g}: {reason}.")
