"""What `information` accepts, and the place and remedy in what it says about the rest."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from spice_select.information import (
    SelectionInputError,
    gram_features,
    information,
    largest_norms,
    principal_gram,
    random_information,
    relative_alpha,
    scale_gram,
    select_from_gram,
    select_in_order,
)

VECTORS = np.array([[3.0, 0.0, 1.0], [0.0, 2.0, -1.0], [1.0, 1.0, 0.0], [-2.0, 1.0, 1.0]])
GRAM = VECTORS @ VECTORS.T


@pytest.mark.parametrize(
    "gram",
    [
        torch.tensor(GRAM),
        torch.tensor(GRAM, dtype=torch.float32),
        torch.tensor(GRAM, dtype=torch.bfloat16),
        torch.tensor(GRAM, dtype=torch.float16),
        torch.tensor(GRAM, dtype=torch.int64),
        torch.tensor(GRAM).requires_grad_(),
        torch.tensor(GRAM).T,
        GRAM.astype(np.float32),
        GRAM.astype(np.float16),
        GRAM.astype(">f8"),
        GRAM.astype(np.longdouble),
        GRAM.astype(np.int32),
        np.ascontiguousarray(GRAM[::-1, ::-1])[::-1, ::-1],
        np.asfortranarray(GRAM),
        GRAM.tolist(),
        tuple(tuple(int(entry) for entry in row) for row in GRAM),
    ],
)
def test_every_form_of_the_same_matrix_gives_the_same_selection(gram: object) -> None:
    expected = select_from_gram(GRAM, 3, alpha=0.3)
    found = select_from_gram(gram, 3, alpha=0.3)  # pyright: ignore[reportArgumentType]
    assert found.indices == expected.indices
    assert found.score.dtype == torch.float64
    assert torch.equal(found.score, expected.score)


@pytest.mark.filterwarnings("error")
def test_the_matrix_is_left_as_it_was_and_may_be_read_only() -> None:
    frozen = GRAM.copy()
    frozen.setflags(write=False)
    select_from_gram(frozen, 4, alpha=1.0)
    tensor = torch.tensor(GRAM)
    select_from_gram(tensor, 4, alpha=1.0)
    assert torch.equal(tensor, torch.tensor(GRAM))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.0, 1e-4, 1.0])
def test_the_rounding_of_low_precision_sums_is_forgiven(dtype: torch.dtype, spread: float) -> None:
    """Near-equal gradients of wide norms: the rounded matrix is neither symmetric nor quite semidefinite."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 4000, generator=generator)
    vectors = shared + spread * torch.randn(40, 4000, generator=generator)
    vectors *= torch.logspace(-2, 2, 40)[:, None]
    gram = (vectors @ vectors.T).to(dtype)
    gram[3, 7] *= 1 + torch.finfo(dtype).eps
    selection = select_from_gram(gram, 40, relative_alpha(gram, 1.0))
    assert (selection.gain >= 0).all()
    assert 0 <= selection.certificate.ratio <= 1
    assert 0 <= selection.curvature <= 1


def changed(row: int, column: int, value: float, *, mirror: bool = True) -> np.ndarray:
    gram = GRAM.copy()
    gram[row, column] = value
    if mirror:
        gram[column, row] = value
    return gram


BAD_GRAMS = [
    (np.ones((2, 3)), r"shape \(2, 3\).*gradients @ gradients\.T"),
    (np.ones(4), r"shape \(4,\)"),
    (3.0, r"shape \(\)"),
    (np.ones((0, 0)), "empty"),
    (torch.ones(0, 0), "empty"),
    ([[1.0, 2.0], [3.0]], "unequal length"),
    ([["a"]], "real numbers"),
    (np.ones((2, 2)) * 1j, "real numbers"),
    (torch.ones(2, 2, dtype=torch.complex64), "real numbers"),
    (torch.ones(2, 2, dtype=torch.bool), "real numbers"),
    (changed(1, 2, np.nan), r"gram\[1, 2\] is nan: not finite.*drop"),
    (changed(3, 3, np.inf), r"gram\[3, 3\] is inf: not finite"),
    (changed(2, 2, -1.0), r"gram\[2, 2\] is -1: a negative squared norm"),
    (changed(0, 3, 1.5, mirror=False), r"gram\[0, 3\] is 1\.5: it differs from its mirror"),
    (changed(1, 3, 40.0), r"gram\[1, 3\] is 40: it exceeds the product of its two norms"),
    (changed(1, 1, 0.0), r"gram\[0, 1\] is -1: it exceeds"),
    (1.5 * np.eye(3) - 0.99 * np.ones((3, 3)) + 0.49 * np.eye(3), "not positive semidefinite.*not distances"),
]


@pytest.mark.parametrize(("gram", "message"), BAD_GRAMS)
def test_a_matrix_that_is_no_gram_matrix_is_refused(gram: np.ndarray, message: str) -> None:
    with pytest.raises(SelectionInputError, match=message):
        select_from_gram(gram, 1, alpha=1.0)
    with pytest.raises(SelectionInputError, match=message):
        select_in_order(gram, [0], alpha=1.0)


READERS: list[Callable[[np.ndarray], object]] = [
    lambda gram: largest_norms(gram, 1),
    lambda gram: information(gram, [0], 1.0),
    lambda gram: random_information(gram, 1, 1.0, 1),
    lambda gram: principal_gram(gram, 1),
    lambda gram: gram_features(gram),
    lambda gram: scale_gram(gram, torch.ones(4)),
    lambda gram: relative_alpha(gram, 1.0),
]


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_a_gram_matrix_checks_it(reader: Callable[[np.ndarray], object]) -> None:
    reader(GRAM)
    with pytest.raises(SelectionInputError, match=r"gram\[1, 2\] is nan"):
        reader(changed(1, 2, np.nan))


BAD_ARGUMENTS = [
    ({"budget": 0}, "budget is 0; pass a whole number >= 1"),
    ({"budget": -3}, "budget is -3"),
    ({"budget": 5}, "budget is 5, but gram holds 4 examples; lower it to at most 4"),
    ({"budget": 2.0}, r"budget is 2\.0; pass a whole number"),
    ({"budget": True}, "budget is True"),
    ({"budget": "2"}, "budget is '2'"),
    ({"alpha": -1.0}, r"alpha is -1\.0; .*relative_alpha"),
    ({"alpha": float("nan")}, "alpha is nan"),
    ({"alpha": float("inf")}, "alpha is inf"),
    ({"alpha": None}, "alpha is None"),
    ({"alpha": 1e308}, "overflows"),
    ({"penalty": -0.1}, r"penalty is -0\.1"),
    ({"penalty": float("nan")}, "penalty is nan"),
    ({"penalty": "high"}, "penalty is 'high'"),
    ({"stop_ratio": 0.0}, r"stop_ratio is 0\.0; .*\(0, 1\].*None"),
    ({"stop_ratio": 1.01}, r"stop_ratio is 1\.01"),
    ({"stop_ratio": -0.5}, r"stop_ratio is -0\.5"),
    ({"stop_ratio": float("nan")}, "stop_ratio is nan"),
]


@pytest.mark.parametrize(("argument", "message"), BAD_ARGUMENTS)
def test_an_argument_out_of_range_is_refused(argument: dict[str, float], message: str) -> None:
    arguments: dict[str, float] = {"budget": 2, "alpha": 1.0, **argument}
    with pytest.raises(SelectionInputError, match=message):
        select_from_gram(GRAM, **arguments)  # pyright: ignore[reportArgumentType]


def test_numpy_and_torch_integers_are_integers() -> None:
    assert select_from_gram(GRAM, np.int64(2), alpha=1.0).indices == select_from_gram(GRAM, 2, alpha=1.0).indices
    assert select_in_order(GRAM, torch.tensor([2, 0]), alpha=1.0).indices == [2, 0]
    assert select_in_order(GRAM, np.array([2, 0]), alpha=1.0).indices == [2, 0]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([], "order is empty"),
        ([0, 4], r"order\[1\] is 4, but gram has rows 0 to 3"),
        ([-1], r"order\[0\] is -1"),
        ([2, 1, 2], r"order\[2\] repeats row 2"),
        ([0.5], "whole row numbers"),
    ],
)
def test_an_order_that_names_no_subset_is_refused(order: list[int], message: str) -> None:
    with pytest.raises(SelectionInputError, match=message):
        select_in_order(GRAM, order, alpha=1.0)


def test_draws_must_be_counted() -> None:
    with pytest.raises(SelectionInputError, match="draws is 0"):
        random_information(GRAM, 1, 1.0, 0)


def test_the_error_is_a_value_error() -> None:
    assert issubclass(SelectionInputError, ValueError)
