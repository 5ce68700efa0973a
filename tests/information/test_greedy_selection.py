"""The greedy on a Gram matrix against the definitions on explicit gradients, and its symmetries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import selection_oracle as oracle
from oracles.information_pools import alphas, generic_pools, gram_of, penalties, pools, stop_ratios
from spice_select.information import (
    Selection,
    information,
    largest_norms,
    random_information,
    select_from_gram,
    select_in_order,
)

CLOSE = 1e-9
"""Scores closer than this are one score to the oracle: either pick is right."""


def close(vectors: np.ndarray, alpha: float, penalty: float) -> float:
    """As `CLOSE`, and what rounding does to the determinant of I + alpha K, by its condition."""
    return CLOSE * max(1.0, penalty) + 1e-15 * alpha * float((vectors**2).sum())


def assert_columns_match_definitions(selection: Selection, vectors: np.ndarray, alpha: float, penalty: float) -> None:
    picks, tolerance = selection.indices, close(vectors, alpha, penalty)
    for row in range(len(vectors)):
        before = picks[: picks.index(row)] if row in picks else picks
        expected = {
            "gain": oracle.gain(vectors, row, before, alpha),
            "base": oracle.gain(vectors, row, [], alpha),
            "conflict": oracle.conflict(vectors, row, before),
            "score": oracle.score(vectors, row, before, alpha, penalty),
        }
        expected["epsilon"] = expected["gain"] - expected["base"]
        for name, value in expected.items():
            found = float(getattr(selection, name)[row])
            assert found == pytest.approx(value, abs=tolerance), f"{name} of row {row} after {before}"
        assert int(selection.rank[row]) == (picks.index(row) if row in picks else -1)
    assert selection.information == pytest.approx(oracle.information(vectors, picks, alpha), abs=tolerance)


def best_rows(vectors: np.ndarray, picked: list[int], alpha: float, penalty: float) -> list[int]:
    scores = {
        row: oracle.score(vectors, row, picked, alpha, penalty) for row in range(len(vectors)) if row not in picked
    }
    return [row for row, value in scores.items() if value >= max(scores.values()) - close(vectors, alpha, penalty)]


@settings(deadline=None, max_examples=150)
@given(vectors=pools(), data=st.data(), alpha=alphas, penalty=penalties, stop_ratio=stop_ratios)
def test_every_pick_is_a_best_one_and_the_early_stop_is_on_gain(
    vectors: np.ndarray, data: st.DataObject, alpha: float, penalty: float, stop_ratio: float | None
) -> None:
    budget = data.draw(st.integers(1, len(vectors)), label="budget")
    selection = select_from_gram(gram_of(vectors), budget, alpha, penalty, stop_ratio)
    picks = selection.indices
    assert len(set(picks)) == len(picks)
    floor = (stop_ratio or 0.0) * oracle.gain(vectors, picks[0], [], alpha)
    for step, row in enumerate(picks):
        assert row in best_rows(vectors, picks[:step], alpha, penalty), f"pick {step} has not the best score"
        if step > 0 and stop_ratio is not None:
            assert oracle.gain(vectors, row, picks[:step], alpha) > floor - CLOSE, f"pick {step} should have stopped"
    if selection.stopped_early:
        assert stop_ratio is not None
        assert len(picks) < budget
        following = best_rows(vectors, picks, alpha, penalty)
        assert min(oracle.gain(vectors, row, picks, alpha) for row in following) <= floor + CLOSE
    else:
        assert len(picks) == budget
    assert_columns_match_definitions(selection, vectors, alpha, penalty)


@settings(deadline=None, max_examples=100)
@given(vectors=pools(), data=st.data(), alpha=alphas, penalty=penalties)
def test_a_fixed_order_reports_the_same_columns(
    vectors: np.ndarray, data: st.DataObject, alpha: float, penalty: float
) -> None:
    order = data.draw(st.permutations(range(len(vectors))), label="order")
    order = order[: data.draw(st.integers(1, len(order)), label="length")]
    selection = select_in_order(gram_of(vectors), order, alpha, penalty)
    assert selection.indices == list(order)
    assert not selection.stopped_early
    assert_columns_match_definitions(selection, vectors, alpha, penalty)


@settings(deadline=None, max_examples=100)
@given(vectors=pools(max_rows=12), alpha=alphas, penalty=penalties, stop_ratio=stop_ratios)
def test_replaying_the_picks_in_order_changes_nothing(
    vectors: np.ndarray, alpha: float, penalty: float, stop_ratio: float | None
) -> None:
    gram = gram_of(vectors)
    greedy = select_from_gram(gram, len(vectors), alpha, penalty, stop_ratio)
    replay = select_in_order(gram, greedy.indices, alpha, penalty)
    for name in ("gain", "base", "epsilon", "conflict", "score", "rank"):
        assert torch.equal(getattr(greedy, name), getattr(replay, name)), name
    assert (greedy.information, greedy.certificate) == (replay.information, replay.certificate)


@settings(deadline=None, max_examples=100)
@given(vectors=pools(max_rows=12), alpha=alphas, penalty=penalties)
def test_the_lower_of_two_equal_rows_goes_first(vectors: np.ndarray, alpha: float, penalty: float) -> None:
    rank = select_from_gram(gram_of(vectors), len(vectors), alpha, penalty).rank
    for low in range(len(vectors)):
        for high in range(low + 1, len(vectors)):
            if np.array_equal(vectors[low], vectors[high]):
                assert rank[low] < rank[high], f"rows {low} and {high} are equal"


def test_ties_go_to_the_lower_index() -> None:
    assert select_from_gram(torch.eye(5), 3, alpha=1.0).indices == [0, 1, 2]
    assert select_from_gram(torch.zeros(4, 4), 4, alpha=1.0).indices == [0, 1, 2, 3]
    assert largest_norms(torch.diag(torch.tensor([1.0, 3.0, 2.0, 3.0])), 3) == [1, 3, 2]


@settings(deadline=None, max_examples=60)
@given(vectors=generic_pools(), data=st.data(), alpha=st.sampled_from([0.05, 1.0, 30.0]))
def test_renumbering_the_rows_renumbers_the_picks(vectors: np.ndarray, data: st.DataObject, alpha: float) -> None:
    order = np.array(data.draw(st.permutations(range(len(vectors))), label="order"))
    picks = select_from_gram(gram_of(vectors), len(vectors), alpha).indices
    renumbered = select_from_gram(gram_of(vectors[order]), len(vectors), alpha).indices
    assert [int(order[row]) for row in renumbered] == picks


@settings(deadline=None, max_examples=60)
@given(vectors=generic_pools(), factor=st.sampled_from([1e-2, 0.3, 8.0, 1e4]))
def test_only_alpha_times_gram_matters(vectors: np.ndarray, factor: float) -> None:
    """Up to the 1e-8 in the cosine's denominator."""
    plain = select_from_gram(gram_of(vectors), len(vectors), alpha=0.7)
    scaled = select_from_gram(factor * gram_of(vectors), len(vectors), alpha=0.7 / factor)
    assert scaled.indices == plain.indices
    torch.testing.assert_close(scaled.gain, plain.gain, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(vectors=generic_pools(), seed=st.integers(0, 1000))
def test_a_rotation_of_the_parameters_changes_nothing(vectors: np.ndarray, seed: int) -> None:
    square = np.random.default_rng(seed).standard_normal((vectors.shape[1], vectors.shape[1]))
    rotated = vectors @ np.linalg.qr(square).Q
    plain, other = (select_from_gram(gram_of(rows), len(rows), alpha=1.0) for rows in (vectors, rotated))
    assert other.indices == plain.indices
    torch.testing.assert_close(other.score, plain.score, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(vectors=pools(max_rows=12), data=st.data(), alpha=alphas)
def test_information_does_not_see_the_sign_of_a_gradient(
    vectors: np.ndarray, data: st.DataObject, alpha: float
) -> None:
    signs = data.draw(
        st.lists(st.sampled_from([1.0, -1.0]), min_size=len(vectors), max_size=len(vectors)), label="signs"
    )
    plain = select_from_gram(gram_of(vectors), len(vectors), alpha, penalty=0.0)
    flipped = select_from_gram(gram_of(vectors * np.array(signs)[:, None]), len(vectors), alpha, penalty=0.0)
    assert flipped.information == pytest.approx(plain.information, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(flipped.base, plain.base)
    assert flipped.curvature == pytest.approx(plain.curvature, abs=1e-7)


def test_the_early_stop_counts_a_gain_at_the_threshold_as_too_little() -> None:
    equal = select_from_gram(torch.eye(4), 4, alpha=1.0, stop_ratio=1.0)
    assert (equal.indices, equal.stopped_early) == ([0], True)
    nothing = select_from_gram(torch.zeros(4, 4), 4, alpha=1.0, stop_ratio=0.5)
    assert (nothing.indices, nothing.stopped_early) == ([0], True)


@pytest.mark.parametrize("alpha", [1e-18, 1e-9, 1.0])
def test_a_tiny_alpha_does_not_make_ties(alpha: float) -> None:
    assert select_from_gram(np.diag([1.0, 3.0, 2.0]), 3, alpha).indices == [1, 2, 0]


def test_conflict_does_see_the_sign() -> None:
    vectors = np.array([[2.0, 0.0], [-1.0, 1.0], [0.9, 1.0]])
    assert select_from_gram(gram_of(vectors), 2, alpha=1.0, penalty=0.0).indices == [0, 1]
    assert select_from_gram(gram_of(vectors), 2, alpha=1.0, penalty=0.5).indices == [0, 2]


def test_the_early_stop_looks_at_gain_where_the_score_would_stop() -> None:
    """The second pick has a full gain and a ruinous score: it is taken all the same."""
    vectors = np.array([[1.0, 0.0], [-0.1, 1.0]])
    selection = select_from_gram(gram_of(vectors), 2, alpha=1.0, penalty=20.0, stop_ratio=0.5)
    assert selection.indices == [0, 1] or selection.indices == [1, 0]
    assert float(selection.score[selection.indices[1]]) < 0


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), width=st.integers(1, 50), alpha=st.sampled_from([1e-3, 1.0, 1e6, 1e10]))
def test_gains_never_rise_and_never_fall_below_zero(seed: int, width: int, alpha: float) -> None:
    """Up to ten picks past the rank, where residuals are nothing but rounding."""
    vectors = np.random.default_rng(seed).standard_normal((60, width))
    gram = gram_of(vectors).astype(np.float32)
    earlier = select_in_order(gram, [0], alpha)
    for length in range(2, 40):
        later = select_in_order(gram, range(length), alpha)
        assert (later.gain >= 0).all()
        assert (later.gain <= earlier.gain).all(), f"a gain rose with pick {length}"
        earlier = later
    assert (earlier.epsilon <= 0).all()


def test_a_whole_large_pool_has_the_information_of_its_determinant() -> None:
    vectors = np.random.default_rng(0).standard_normal((120, 300)) / 17
    selection = select_from_gram(gram_of(vectors), 120, alpha=1.0)
    assert sorted(selection.indices) == list(range(120))
    assert selection.information == pytest.approx(oracle.information(vectors, range(120), 1.0), rel=1e-12)


@settings(deadline=None, max_examples=60)
@given(vectors=pools(), data=st.data(), alpha=alphas)
def test_information_is_the_log_determinant(vectors: np.ndarray, data: st.DataObject, alpha: float) -> None:
    subset = data.draw(st.sets(st.integers(0, len(vectors) - 1), min_size=1), label="subset")
    found = information(gram_of(vectors), sorted(subset), alpha)
    assert found == pytest.approx(oracle.information(vectors, sorted(subset), alpha), abs=CLOSE)


def test_random_information_is_the_mean_over_subsets() -> None:
    vectors = np.random.default_rng(3).standard_normal((5, 4))
    gram = gram_of(vectors)
    pairs = [oracle.information(vectors, (i, j), 1.0) for i in range(5) for j in range(i)]
    first, second = (random_information(gram, 2, 1.0, 3000, torch.Generator().manual_seed(7)) for _ in range(2))
    assert first == second
    assert first == pytest.approx(np.mean(pairs), abs=5 * np.std(pairs) / 3000**0.5)
    assert random_information(gram, 5, 1.0, 2) == pytest.approx(oracle.information(vectors, range(5), 1.0))


def test_a_pool_of_one() -> None:
    single = select_from_gram([[4]], 1, alpha=0.5)
    assert single.indices == [0]
    assert single.information == pytest.approx(np.log(3.0))
    assert single.certificate.ratio == pytest.approx(1.0)
    assert single.curvature == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_mean_that_is_zero_up_to_rounding_has_no_direction(seed: int) -> None:
    first, second, other = np.random.default_rng(seed).standard_normal((3, 9)) * 1e3
    vectors = np.array([first, second, -first - second, other, -other])
    assert select_in_order(gram_of(vectors), [0, 1, 2], alpha=1.0).conflict[3:].tolist() == [0.0, 0.0]
