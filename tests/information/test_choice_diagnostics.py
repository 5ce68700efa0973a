"""What is said of a finished choice: half-life, Theorem 4, features of a Gram matrix, information of any subset."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import diversity_oracle, selection_oracle
from oracles.information_pools import alphas, generic_pools, gram_of, pools
from spice_select.information import (
    RowLimit,
    TensorFeatures,
    gram_features,
    half_life,
    random_draws,
    select_in_order,
    subset_information,
    theorem4,
)


@given(pools())
def test_features_of_a_gram_matrix_give_it_back(vectors):
    gram = gram_of(vectors)
    features = gram_features(gram).numpy()
    assert features @ features.T == pytest.approx(gram, abs=1e-9 * max(1.0, np.abs(gram).max()))


@given(pools(), alphas, st.data())
def test_information_of_a_subset_follows_its_definition(vectors, alpha, data):
    rows = data.draw(st.lists(st.sampled_from(range(len(vectors))), unique=True, min_size=1))
    features = TensorFeatures(torch.from_numpy(vectors))
    found = subset_information(features, torch.tensor(rows), alpha)
    assert found == pytest.approx(selection_oracle.information(vectors, rows, alpha), rel=1e-7, abs=1e-9)


@given(generic_pools(), st.integers(0, 99))
def test_no_draw_has_more_information_than_all_rows(vectors, seed):
    features, count = TensorFeatures(torch.from_numpy(vectors)), max(1, len(vectors) // 2)
    draws = random_draws(features, RowLimit(count), range(count), 1.0, 5, torch.Generator().manual_seed(seed))
    whole = subset_information(features, torch.arange(len(vectors)), 1.0)
    assert len(draws) == 5 and float(draws.max()) <= whole + 1e-9


@settings(deadline=None)
@given(generic_pools(), st.sampled_from([1e-4, 1e-3, 0.01, 0.1, 1.0]), st.data())
def test_theorem4_is_counted_as_it_is_stated(vectors, alpha, data):
    count = data.draw(st.integers(1, len(vectors)))
    picks = data.draw(st.permutations(range(len(vectors))))[:count]
    squared_norms = torch.from_numpy((vectors**2).sum(axis=1))
    epsilon = select_in_order(gram_of(vectors), picks, alpha).epsilon
    found = theorem4(TensorFeatures(torch.from_numpy(vectors)), squared_norms, picks, epsilon, alpha)
    assert tuple(found) == diversity_oracle.theorem4(vectors, picks, alpha)


def test_of_many_steps_some_stand_for_all(monkeypatch):
    """A tiny alpha meets the condition at every step; the bound then holds at all, whichever are looked at."""
    vectors = np.random.default_rng(0).standard_normal((60, 8))
    squared_norms = torch.from_numpy((vectors**2).sum(axis=1))
    epsilon = select_in_order(gram_of(vectors), range(60), 1e-7).epsilon
    found = theorem4(TensorFeatures(torch.from_numpy(vectors)), squared_norms, range(60), epsilon, 1e-7)
    monkeypatch.setattr("spice_select.information.diagnostics.CHECKED", 7)
    assert theorem4(TensorFeatures(torch.from_numpy(vectors)), squared_norms, range(60), epsilon, 1e-7) == found
    assert found.condition == 59


@given(st.lists(st.floats(0, 10), max_size=8))
def test_half_life_is_the_first_gain_of_half_the_first(gains):
    found = half_life(gains)
    below = [step for step, gain in enumerate(gains) if gain <= gains[0] / 2]
    assert found == (below[0] if below else None)
