"""LEAD's mathematics against its definition, on a model that is a function of what it was trained on."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracles import lead_oracle as oracle
from spice_select.constants import Lead
from spice_select.methods.lead import Update, clusters_of, expected_drop, kmeans, probabilities, rounds, scaled

RATE = 0.3
few_numbers = st.lists(  # of 16 bits, so that means and midpoints are exact
    st.sampled_from([0.0, 0.5, 1.0, -2.0, 3.25, 1e3]) | st.floats(-3, 3, width=16), min_size=1, max_size=9
)


class Learner:
    """Training lowers a row's loss by what its group was trained on; no row of `broken` has a finite loss after that.

    Losses lie on the grid that LEAD rounds them to, so that both sides compute with the same numbers.
    """

    def __init__(self, count, seed, broken=()):
        generator = np.random.default_rng(seed)
        self.first = generator.integers(1, 40, count) / 16
        self.group, self.weights = generator.integers(0, 3, count), np.zeros(3)
        self.effect, self.broken, self.trained = generator.integers(-1, 5, 3) / 8, {*broken}, []

    def losses(self, rows):
        return [math.nan if self.weights[0] and row in self.broken
                else float(np.round(self.first[row] * math.exp(-self.weights[self.group[row]]) * 2**16) / 2**16)
                for row in rows]  # fmt: skip

    def train(self, rows):
        self.trained.append(list(rows))
        change = np.bincount(self.group[rows], minlength=3) * self.effect / len(rows)
        self.weights = self.weights + change
        return torch.from_numpy(change)


@st.composite
def pools(draw):
    count = draw(st.integers(1, 40))
    clusters = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    sources = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    constants = {"exploration": draw(st.sampled_from([0.1, 0.5, 1.0])), "share": draw(st.sampled_from([0.015, 0.3, 1])),
                 "most_uses": draw(st.integers(1, 4))}  # fmt: skip
    return clusters, sources, draw(st.integers(0, 99)), draw(st.sets(st.integers(0, count - 1), max_size=3)), constants


@given(few_numbers, st.integers(1, 9))
def test_kmeans_puts_each_value_into_the_cluster_of_the_nearest_mean(values, count):
    """Labels rise with the values; as few different values as clusters are a cluster each; equal ones are together."""
    labels = kmeans(np.array(values), count).tolist()
    assert sorted(set(labels)) == list(range(max(labels) + 1)) and len(set(labels)) <= count
    means = {label: np.mean([v for v, own in zip(values, labels, strict=True) if own == label]) for label in labels}
    for value, label in zip(values, labels, strict=True):
        assert abs(value - means[label]) <= min(abs(value - mean) for mean in means.values()) + 1e-9
    pairs = sorted(set(zip(values, labels, strict=True)))
    assert [label for _, label in pairs] == sorted(label for _, label in pairs)
    assert len(pairs) == len(set(values))
    if len(pairs) <= count:
        assert len(set(labels)) == len(pairs)


def test_rows_without_a_difficulty_form_a_cluster_of_their_own():
    assert clusters_of([0.5, math.nan, 0.9, math.nan, 0.5], 2).tolist() == [0, 2, 1, 2, 0]
    assert clusters_of([math.nan, math.nan], 7).tolist() == [0, 0]
    assert clusters_of([0.25, 0.5, 0.75], 7).tolist() == [0, 1, 2]
    assert clusters_of([0.5] * 4, 7).tolist() == [0] * 4


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=8), st.sampled_from([0.1, 0.5, 1.0]))
def test_probabilities_are_those_of_exp3(logarithms, exploration):
    expected = oracle.chances({arm: math.exp(w) for arm, w in enumerate(logarithms)}, exploration)
    found = probabilities(np.array(logarithms), exploration)
    np.testing.assert_allclose(found, [*expected.values()], rtol=1e-12)
    np.testing.assert_allclose(probabilities(np.array(logarithms) + 5e4, exploration), found, rtol=1e-9)


def test_rewards_are_scaled_by_those_so_far():
    rewards, found = [2.0, 2.0, 5.0, -1.0, 2.0], []
    for number, reward in enumerate(rewards):
        found.append(scaled(reward, rewards[:number]))
    assert found == [0.0, 0.0, 1.0, -1.0, 0.0]


@given(st.floats(0, 4), st.floats(0, 4), st.floats(-1, 1))
def test_the_expected_drop_is_the_least_over_b(d_c, d_p, cosine):
    """As the formula says; no b gives less; at most either drop, so that equal drops at angle 0 stay themselves."""
    one, other = torch.tensor([1.0, 0.0]).double(), torch.tensor([cosine, math.sqrt(1 - cosine**2)]).double()
    found = expected_drop(Update(d_c, one), Update(d_p, other), RATE)
    a = math.sqrt(d_c * d_p) * cosine
    assert 0 <= found <= RATE * min(d_c, d_p) * (1 + 1e-12)
    if d_c + d_p - 2 * a > 1e-6:
        assert found == pytest.approx(oracle.drop(d_c, d_p, cosine, RATE), rel=1e-6, abs=1e-9)
    for b in np.linspace(-3, 4, 141):
        assert found <= RATE * (b**2 * d_c + (1 - b) ** 2 * d_p + 2 * b * (1 - b) * a) + 1e-7
    assert expected_drop(None, None, RATE) == 0 and expected_drop(None, Update(d_p, other), RATE) == RATE * d_p
    still = torch.zeros(2).double()
    assert expected_drop(Update(1.0, still), Update(1.0, other), RATE) == RATE / 2


@given(pools())
def test_the_rounds_are_those_of_the_definition(pool):
    """Clusters drawn, rows, new rows and what was trained on, until no row is left; rows go bad on the way."""
    clusters, sources, seed, broken, constants = pool
    ours, theirs = Learner(len(clusters), seed, broken), Learner(len(clusters), seed, broken)
    first = ours.losses(range(len(clusters)))
    found = rounds(np.array(clusters), np.array(sources), first, ours, RATE, seed, Lead(**constants))
    expected = oracle.rounds(clusters, sources, first, theirs, RATE, seed, **constants)
    for at, (cluster, rows, new) in zip(found, expected, strict=True):
        assert (at.cluster, at.rows, at.new) == (cluster, rows, new)
    assert ours.trained == theirs.trained


@given(pools())
def test_every_usable_row_is_chosen_in_the_end(pool):
    """Each row that stays finite is in exactly as many rounds as it may be, and new in one; others in none."""
    clusters, sources, seed, broken, constants = pool
    learner = Learner(len(clusters), seed)
    first = [math.inf if row in broken else loss for row, loss in enumerate(learner.losses(range(len(clusters))))]
    found = [*rounds(np.array(clusters), np.array(sources), first, learner, RATE, seed, Lead(**constants))]
    good = sorted({*range(len(clusters))} - broken)
    assert sorted(row for at in found for row in at.new) == good
    assert sorted(row for at in found for row in at.rows) == sorted(good * constants["most_uses"])
    assert all(clusters[row] == at.cluster for at in found for row in at.rows)


def test_the_last_round_is_not_trained_on():
    learner = Learner(30, 0)
    rows = np.arange(30) % 3
    found = [*islice(rounds(rows, rows * 0, learner.losses(range(30)), learner, RATE, 0, Lead()), 5)]
    assert learner.trained == [at.rows for at in found[:4]]


def test_copies_tie_whatever_rounding_their_batches_bring():
    """The lower of two rows whose losses differ in the last bits comes first."""
    learner = Learner(2, 0)
    for noise in (-1e-7, 1e-7):
        found = rounds(np.zeros(2, int), np.zeros(2, int), [1.0, 1.0 + noise], learner, RATE, 0, Lead(share=1))
        assert next(found).rows == [0, 1]
