"""The facts of the paper that hold for every pool, and the certificate against exhaustive search."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import selection_oracle as oracle
from oracles.information_pools import alphas, gram_of, pools
from spice_select.information import (
    TensorFeatures,
    select_from_gram,
    select_in_order,
    theorem4,
)
from spice_select.information.certificate import guarantee_factor

SLACK = 1e-9


@settings(deadline=None, max_examples=80)
@given(vectors=pools(), data=st.data(), alpha=alphas)
def test_theorem_1_gains_shrink_by_the_growth_of_the_interaction(
    vectors: np.ndarray, data: st.DataObject, alpha: float
) -> None:
    """For A inside B and x outside B: D_x(A) - D_x(B) = epsilon_x(A) - epsilon_x(B) >= 0."""
    order = data.draw(st.permutations(range(len(vectors))), label="order")
    larger = data.draw(st.integers(1, len(order)), label="|B|")
    smaller = data.draw(st.integers(1, larger), label="|A|")
    inner = select_in_order(gram_of(vectors), order[:smaller], alpha)
    outer = select_in_order(gram_of(vectors), order[:larger], alpha)
    outside = list(order[larger:])
    loss = (inner.gain - outer.gain)[outside]
    assert (loss >= 0).all()
    torch.testing.assert_close(loss, (inner.epsilon - outer.epsilon)[outside], rtol=0, atol=1e-12)
    assert outer.information >= inner.information


@settings(deadline=None, max_examples=120)
@given(vectors=pools(), alpha=alphas)
def test_curvature_is_its_definition_and_obeys_lemma_1(vectors: np.ndarray, alpha: float) -> None:
    """Lemma 1: c <= max_x |epsilon_x(D - x)| / base_x."""
    curvature = select_from_gram(gram_of(vectors), 1, alpha).curvature
    assert 0.0 <= curvature <= 1.0
    assert curvature == pytest.approx(oracle.curvature(vectors, alpha), abs=1e-7)
    ratios = [0.0]
    for row in range(len(vectors)):
        others = oracle.everyone_else(vectors, row)
        if others and alpha > 0 and vectors[row].any():
            last = select_in_order(gram_of(vectors), others, alpha)
            ratios.append(float(-last.epsilon[row] / last.base[row]))
    assert curvature <= max(ratios) + SLACK


def test_curvature_keeps_its_digits_when_alpha_is_tiny() -> None:
    """Two equal gradients: c tends to alpha |g|^2 as alpha |g|^2 does to 0."""
    assert select_from_gram(np.ones((2, 2)), 1, alpha=1e-9).curvature == pytest.approx(1e-9, abs=1e-13)
    assert select_from_gram(np.ones((2, 2)), 1, alpha=1e12).curvature == pytest.approx(
        1 - np.log(2) / np.log(1e12), abs=1e-3
    )


@settings(deadline=None, max_examples=80)
@given(vectors=pools(max_rows=6), alpha=alphas)
def test_theorem_3_pure_greedy_reaches_its_share_of_the_optimum(vectors: np.ndarray, alpha: float) -> None:
    for size in range(1, len(vectors) + 1):
        greedy = select_from_gram(gram_of(vectors), size, alpha, penalty=0.0)
        assert greedy.information >= greedy.guarantee * oracle.optimum(vectors, size, alpha) - SLACK


@pytest.mark.parametrize(("curvature", "factor"), [(0.0, 1.0), (1e-12, 1.0), (0.5, 0.786939), (1.0, 0.632121)])
def test_guarantee_factor(curvature: float, factor: float) -> None:
    assert guarantee_factor(curvature) == pytest.approx(factor, abs=1e-6)


@settings(deadline=None, max_examples=80)
@given(vectors=pools(max_rows=6), data=st.data(), alpha=alphas)
def test_the_certificate_is_never_below_the_optimum(vectors: np.ndarray, data: st.DataObject, alpha: float) -> None:
    """Whatever chose the rows, in whatever order."""
    order = data.draw(st.permutations(range(len(vectors))), label="order")
    for size in range(1, len(order) + 1):
        best = oracle.optimum(vectors, size, alpha)
        for selection in (
            select_in_order(gram_of(vectors), order[:size], alpha),
            select_from_gram(gram_of(vectors), size, alpha),
        ):
            certificate = selection.certificate
            assert certificate.bound >= best - SLACK, f"{certificate} but U(OPT_{size}) = {best}"
            assert 0.0 <= certificate.ratio <= 1.0
            assert certificate.ratio * certificate.bound == pytest.approx(selection.information, abs=SLACK)


@settings(deadline=None, max_examples=60)
@given(vectors=pools(), data=st.data(), alpha=alphas)
def test_the_bound_is_the_smallest_of_its_definition(vectors: np.ndarray, data: st.DataObject, alpha: float) -> None:
    order = data.draw(st.permutations(range(len(vectors))), label="order")
    size = data.draw(st.integers(1, len(order)), label="size")
    bounds = [np.log1p(alpha * np.linalg.eigvalsh(gram_of(vectors))[::-1][:size].clip(0)).sum()]
    for step in range(size + 1):
        inside = order[:step]
        gains = sorted((oracle.gain(vectors, row, inside, alpha) for row in order[step:]), reverse=True)
        bounds.append(oracle.information(vectors, inside, alpha) + sum(gains[:size]))
    found = select_in_order(gram_of(vectors), order[:size], alpha).certificate
    rounding = 1e-14 * alpha * np.square(vectors).sum(axis=1).max() * 2 * size  # docs/numbers.md
    assert min(bounds) - SLACK <= found.bound <= min(bounds) + rounding + SLACK


def test_the_certificate_is_tight_where_nothing_interacts() -> None:
    orthogonal = torch.diag(torch.tensor([3.0, 1.0, 2.0]))
    best = select_from_gram(orthogonal, 2, alpha=1.0).certificate
    assert (best.ratio, best.bound) == (pytest.approx(1.0), pytest.approx(np.log(12.0)))
    worst = select_in_order(orthogonal, [1], alpha=1.0).certificate
    assert worst.ratio == pytest.approx(0.5)
    assert (worst.source, worst.prefix) == ("gains", 0)


def test_the_certificate_takes_the_eigenvalues_where_they_are_tighter() -> None:
    """Six equal rows, three picks: the best gains bound is log(201) + 3 log(301/201), the other log(601)."""
    certificate = select_from_gram(np.ones((6, 6)), 3, alpha=100.0).certificate
    assert (certificate.source, certificate.prefix) == ("eigenvalues", None)
    assert certificate.bound == pytest.approx(np.log(601.0))
    assert certificate.ratio == pytest.approx(np.log(301.0) / np.log(601.0))


def test_a_pool_of_zero_gradients_is_as_good_as_it_can_be() -> None:
    nothing = select_from_gram(np.zeros((3, 3)), 2, alpha=1.0, penalty=0.0)
    assert (nothing.information, nothing.certificate.bound, nothing.certificate.ratio) == (0.0, 0.0, 1.0)
    assert (nothing.curvature, nothing.guarantee) == (0.0, 1.0)


@settings(deadline=None, max_examples=100)
@given(vectors=pools(), data=st.data(), weight=st.sampled_from([1e-3, 0.05, 0.2, 0.4, 2.0]))
def test_theorem_4_bounds_the_interaction_under_its_premises(
    vectors: np.ndarray, data: st.DataObject, weight: float
) -> None:
    """Wherever the condition holds the bound does too, for every order of picking."""
    picks = data.draw(st.permutations(range(len(vectors))), label="picks")
    alpha = weight / max(np.linalg.eigvalsh(vectors.T @ vectors)[-1], 1e-3)
    epsilon = select_in_order(gram_of(vectors), picks, alpha).epsilon
    squared_norms = torch.from_numpy((vectors**2).sum(axis=1))
    found = theorem4(TensorFeatures(torch.from_numpy(vectors)), squared_norms, picks, epsilon, alpha)
    assert found.held == found.condition
    if weight < 0.4:
        assert found.condition == len(vectors) - 1
