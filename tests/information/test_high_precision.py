"""Gains, information and picks against 100 digits: nearly dependent rows, tiny and huge gradients, extreme alpha.

With a = alpha max |g|^2, a gain is exact to 1e-14 a, U of k picks to 1e-14 a k, and a pick's gain is the best there is
up to twice that and the width of a tie, 1e-12 log(1 + a). Beyond a = 1e14 the answer is refused.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oracles import high_precision
from spice_select.information import (
    RowLimit,
    Selection,
    SelectionInputError,
    TensorFeatures,
    choose_rows,
    information,
    moments_of,
    random_draws,
    relative_alpha,
    select_from_features,
    select_from_gram,
)
from spice_select.information.inverse import log_det_shifted, shifted_cholesky

EXACT = 1e-14
TIE = 1e-12


@st.composite
def hard_pools(draw: st.DrawFn) -> np.ndarray:
    """[m, P] rows of which the longest has a norm of about 1: nearly dependent, ill-conditioned, of wide norms."""
    rows, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["near", "conditioned", "wide", "plain"]))
    noise = rng.standard_normal((rows, width))
    if kind == "near":
        base = rng.standard_normal((2, width))[rng.integers(0, 2, rows)] * rng.choice([1.0, -1.0, 2.0], rows)[:, None]
        noise = base + 10.0 ** -draw(st.integers(1, 17)) * noise
    elif kind == "conditioned":  # singular values from 1 to 1e-8: the Gram matrix has a condition number of 1e16
        left, _, right = np.linalg.svd(noise, full_matrices=False)
        noise = (left * 10.0 ** -np.linspace(0, 8, left.shape[1])) @ right
    elif kind == "wide":
        noise = noise * 10.0 ** rng.uniform(-8, 0, rows)[:, None]
    return noise / max(np.linalg.norm(noise, axis=1).max(), 1e-30)


scales = st.integers(-15, 15).map(lambda power: 10.0**power)  # of gradients: Gram matrices from 1e-30 to 1e30
alphas = st.integers(-12, 12).map(lambda power: 10.0**power)


def reach(vectors: np.ndarray, alpha: float) -> float:
    return alpha * float((vectors**2).sum(axis=1).max())


def check(selection: Selection, vectors: np.ndarray, alpha: float, before: int = 0) -> None:
    """Every pick of rows `before` and later against the oracle; the first rows are there from the start."""
    a, there = reach(vectors, alpha), list(range(before))
    for place in selection.indices:
        row = place + before
        gains = high_precision.gains(vectors, there, alpha)
        assert abs(float(selection.gain[place]) - gains[row]) <= EXACT * a, f"gain of {row} after {there}"
        assert gains[row] >= gains.max() - 3 * EXACT * a - TIE * math.log1p(a), f"{row} is not the best after {there}"
        there.append(row)
    total = float(high_precision.information(vectors, there, alpha))
    total -= float(high_precision.information(vectors, there[:before], alpha))
    assert abs(selection.information - total) <= EXACT * a * len(there)
    assert 0.0 <= selection.certificate.ratio <= 1.0 and 0.0 <= selection.curvature <= 1.0
    assert bool((selection.gain >= 0).all()) and bool(torch.isfinite(selection.score).all())


@settings(deadline=None, max_examples=60)
@given(hard_pools(), scales, alphas, st.booleans(), st.booleans(), st.data())
def test_gains_and_picks_are_exact_to_the_stated_tolerance(unit, scale, alpha, relative, as_features, data):
    """Alpha relative to the mean squared norm, or absolute; from a Gram matrix, or from features."""
    vectors = unit * scale
    gram = vectors @ vectors.T
    strength = relative_alpha(gram, alpha) if relative else alpha
    budget = data.draw(st.integers(1, len(vectors)))
    assume(abs(reach(vectors, strength) / 1e14 - 1) > 1e-9)  # at the limit itself rounding decides
    choose, given_rows = (select_from_features, vectors) if as_features else (select_from_gram, gram)
    if reach(vectors, strength) > 1e14:
        with pytest.raises(SelectionInputError, match=r"alpha times the squared norm of row \d.* Lower alpha"):
            choose(given_rows, budget, strength, 0.0)
        return
    check(choose(given_rows, budget, strength, 0.0), vectors, strength)


@settings(deadline=None, max_examples=30)
@given(hard_pools(), st.integers(-12, 13), scales, st.data())
def test_so_they_are_beside_given_rows_and_for_subsets(unit, power, scale, data):
    """Given rows of which candidates may be copies; U of any subset, and of random ones, is never NaN."""
    assume(len(unit) > 1)
    vectors, alpha = unit * scale, 10.0**power / scale**2
    before = data.draw(st.integers(1, len(vectors) - 1))
    there, rows = TensorFeatures(torch.tensor(vectors[:before])), TensorFeatures(torch.tensor(vectors[before:]))
    limit = RowLimit(data.draw(st.integers(1, rows.rows)))
    check(choose_rows(moments_of(rows), limit, alpha, 0.0, None, there), vectors, alpha, before)
    subset = data.draw(st.permutations(range(len(vectors))))[:before]
    exact = float(high_precision.information(vectors, subset, alpha))
    assert abs(information(vectors @ vectors.T, subset, alpha) - exact) <= EXACT * reach(vectors, alpha) * len(subset)
    draws = random_draws(rows, limit, range(limit.most), alpha, 3, torch.Generator().manual_seed(0), there)
    assert bool(torch.isfinite(draws).all())


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(-30, 30), st.integers(0, 2**32 - 1))
def test_a_factor_is_found_however_large_the_matrix(rows, width, power, seed):
    """L L^T is I + F up to rounding, also where rounding has made I + F indefinite."""
    vectors = np.random.default_rng(seed).standard_normal((rows, width))
    scaled = torch.tensor(vectors.T @ vectors) * 10.0**power
    factor = shifted_cholesky(scaled)
    assert torch.equal(factor, factor.tril()) and bool((factor.diagonal() > 0).all())
    expected = scaled + torch.eye(width, dtype=torch.float64)
    assert float((factor @ factor.T - expected).abs().max()) <= 1e-13 * float(expected.abs().max())
    if power <= 14:
        exact = float(high_precision.information(vectors, range(rows), 10.0**power))
        largest = float(scaled.diagonal().max())
        assert abs(log_det_shifted(scaled) - exact) <= EXACT * max(1.0, largest) * width
