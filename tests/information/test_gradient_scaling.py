"""Scaling a Gram matrix is scaling the gradients it came from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.information_pools import gram_of, pools
from spice_select.information import (
    Scale,
    SelectionInputError,
    gradient_scales,
    relative_alpha,
    scale_gram,
    select_from_gram,
)


@settings(deadline=None, max_examples=60)
@given(vectors=pools(), data=st.data())
def test_scaled_gram_is_the_gram_of_scaled_gradients(vectors: np.ndarray, data: st.DataObject) -> None:
    rows = len(vectors)
    lengths = np.array(data.draw(st.lists(st.integers(1, 4000), min_size=rows, max_size=rows), label="lengths"))
    gram = gram_of(vectors)
    norms = np.linalg.norm(vectors, axis=1)
    directions = np.divide(vectors, norms[:, None], out=np.zeros_like(vectors), where=norms[:, None] > 0)
    roots = np.sqrt(lengths)[:, None]
    halved = np.sqrt(roots * norms[:, None]) * directions
    expected = {"none": vectors, "sqrt-length": roots * vectors, "geometric": halved, "unit": directions}
    for scale, scaled in expected.items():
        scales = gradient_scales(scale, lengths, gram.diagonal().copy())  # pyright: ignore[reportArgumentType]
        assert scales.dtype == torch.float64
        np.testing.assert_allclose(scale_gram(gram, scales).matrix.numpy(), gram_of(scaled), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("scale", "other"), [("unit", 0.5), ("geometric", 1.0)])
def test_a_zero_gradient_has_scale_zero_and_stays_zero(scale: Scale, other: float) -> None:
    scales = gradient_scales(scale, [4, 4], [0.0, 4.0])
    assert scales.tolist() == [0.0, other]
    assert scale_gram([[0.0, 0.0], [0.0, 4.0]], scales).matrix.tolist() == [[0.0, 0.0], [0.0, 4.0 * other**2]]


@settings(deadline=None, max_examples=60)
@given(vectors=pools(), a=st.sampled_from([0.0, 0.1, 1.0, 7.0]), factor=st.sampled_from([1e-8, 1.0, 1e8]))
def test_relative_alpha_makes_the_mean_of_alpha_times_squared_norm_a(
    vectors: np.ndarray, a: float, factor: float
) -> None:
    gram = factor * gram_of(vectors)
    alpha = relative_alpha(gram, a)
    if gram.any():
        assert (alpha * gram.diagonal()).mean() == pytest.approx(a)
    else:
        assert alpha == a
        assert select_from_gram(gram, 1, alpha).information == 0.0


@pytest.mark.parametrize(
    ("scale", "lengths", "squares", "message"),
    [
        ("length", [1], [1.0], "scale is 'length'; choose none, sqrt-length, geometric or unit"),
        ("none", [1, 2], [1.0], "2 lengths for 1 squared norms"),
        ("none", [[1]], [[1.0]], r"lengths has shape \(1, 1\)"),
        ("sqrt-length", [5, 0], [1.0, 1.0], r"lengths\[1\] is 0.*at least 1 token"),
        ("unit", [5, 5], [1.0, -1.0], r"squared_norms\[1\] is -1"),
        ("unit", [5, 5], [float("nan"), 1.0], r"squared_norms\[0\] is nan"),
    ],
)
def test_impossible_scales_are_refused(scale: str, lengths: list[int], squares: list[float], message: str) -> None:
    with pytest.raises(SelectionInputError, match=message):
        gradient_scales(scale, lengths, squares)  # pyright: ignore[reportArgumentType]


def test_scales_and_a_are_checked() -> None:
    with pytest.raises(SelectionInputError, match="1 scales for a gram of 2 rows"):
        scale_gram(np.eye(2), torch.ones(1))
    with pytest.raises(SelectionInputError, match=r"scales\[1\] is inf"):
        scale_gram(np.eye(2), torch.tensor([1.0, torch.inf]))
    with pytest.raises(SelectionInputError, match=r"a is -1\.0"):
        relative_alpha(np.eye(2), -1.0)
    with pytest.raises(SelectionInputError, match="overflows"):
        relative_alpha(np.eye(2) * 1e-320, 1.0)
