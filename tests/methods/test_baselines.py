"""Each baseline against its definition, written out slowly."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracles.information_pools import generic_pools, gram_of, pools
from oracles.method_oracle import cosine_to_mean, greedy_dpp
from spice_select.methods import FOR_TARGET, GRADIENT_METHODS, ORDERS, RowFacts, take_tokens
from spice_select.methods.ifd import difficulty
from spice_select.option_values import GREEDY, TARGETED, TRAINING, WITHOUT_GRADIENTS, WITHOUT_MODEL, Method


def gram(vectors: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(gram_of(vectors))


def test_every_method_of_the_configuration_exists() -> None:
    """The names users may give are the greedy ones, those that train, and exactly those of the three registries.

    Other methods without gradients rank all rows at once: by its place in a registry a method runs as what it is.
    """
    groups = (GREEDY, TRAINING, GRADIENT_METHODS, ORDERS, FOR_TARGET)
    assert sorted(Method.__args__) == sorted(name for group in groups for name in group)
    assert set(TARGETED) == set(FOR_TARGET)
    assert set(WITHOUT_GRADIENTS) == {*ORDERS, *TRAINING}
    assert set(WITHOUT_MODEL) <= set(WITHOUT_GRADIENTS)


@given(pools(), st.data())
def test_gradient_methods_pick_distinct_rows_in_an_order_of_their_own(vectors, data) -> None:
    """k distinct rows for every k up to m, zero rows and duplicates included; fewer picks are a prefix of more."""
    count = data.draw(st.integers(1, len(vectors)))
    for pick in GRADIENT_METHODS.values():
        picks = pick(gram(vectors), count)
        assert len(picks) == len(set(picks)) == count
        assert set(picks) <= set(range(len(vectors)))
        assert picks == pick(gram(vectors), len(vectors))[:count]


@given(generic_pools(max_rows=8), st.data())
def test_dpp_adds_the_row_that_leaves_the_largest_determinant(vectors, data) -> None:
    """Equal to computing det(L_S + x) for every x at every step; scaling a gradient changes nothing."""
    count = data.draw(st.integers(1, len(vectors)))
    scales = np.array(data.draw(st.lists(st.sampled_from([0.1, 1.0, 30.0]), min_size=8, max_size=8)))
    picks = GRADIENT_METHODS["dpp"](gram(vectors), count)
    assert picks == greedy_dpp(vectors, count)
    assert picks == GRADIENT_METHODS["dpp"](gram(vectors * scales[: len(vectors), None]), count)


def test_dpp_takes_a_copy_last() -> None:
    """A duplicate spans nothing new, a zero gradient neither."""
    vectors = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert GRADIENT_METHODS["dpp"](gram(vectors), 4) == [0, 3, 1, 2]


@given(generic_pools(), st.data())
def test_cosine_takes_the_rows_nearest_to_the_mean(vectors, data) -> None:
    """No row left out has a higher cosine to the mean of the unit gradients than one that was taken."""
    count = data.draw(st.integers(1, len(vectors)))
    values = cosine_to_mean(vectors)
    picks = GRADIENT_METHODS["cosine"](gram(vectors), count)
    left = [values[row] for row in range(len(vectors)) if row not in picks]
    assert min(values[row] for row in picks) >= max(left, default=-math.inf) - 1e-9


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(0, 5))
def test_orders_are_permutations(lengths, seed) -> None:
    """Every row appears once, whatever the facts."""
    losses = [float(n % 4) for n in lengths]
    states = [torch.full((n, 2), float(n)) for n in lengths]
    alone = [1.0 if n > 1 else math.nan for n in lengths]
    facts = RowFacts(lengths, seed, losses, alone, scores=losses, states=states)
    for order in ORDERS.values():
        assert sorted(order(facts)) == list(range(len(lengths)))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_longest_is_sorted_by_length_and_stable(lengths) -> None:
    """No later row is longer; among equals the lower row comes first."""
    order = ORDERS["longest"](RowFacts(lengths, 0))
    keys = [(-lengths[row], row) for row in order]
    assert keys == sorted(keys)


def test_random_depends_on_the_seed_alone() -> None:
    """The same seed draws the same rows; each row is drawn about equally often."""
    facts = [RowFacts([1] * 20, seed) for seed in range(400)]
    assert ORDERS["random"](facts[3]) == ORDERS["random"](RowFacts([7] * 20, 3))
    counts = np.bincount([row for fact in facts for row in ORDERS["random"](fact)[:5]], minlength=20)
    assert counts.min() > 60
    assert counts.max() < 145


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.integers(0, 5), st.data())
def test_balanced_random_gives_each_source_the_same_or_all_it_has(sources, seed, data) -> None:
    """Of any prefix, no source has a row less than another unless it has no more; each draws in random's order."""
    lengths = [1] * len(sources)
    plain, order = (ORDERS["random"](RowFacts(lengths, seed, sources=of)) for of in ((), sources))
    picks = order[: data.draw(st.integers(1, len(sources)))]
    counts = {source: sum(sources[row] == source for row in picks) for source in set(sources)}
    assert all(
        counts[source] in (sources.count(source), max(counts.values()) - 1, max(counts.values())) for source in counts
    )
    for source in set(sources):
        assert [row for row in order if sources[row] == source] == [row for row in plain if sources[row] == source]


def test_ifd_prefers_hard_rows_whose_prompt_still_helps() -> None:
    """Highest below 1 first; then those from 1 on, whose prompt is no help; then those without a value."""
    conditioned = [0.9, 0.5, 1.5, 1.0, 0.7, 0.2]
    direct = [1.0, 1.0, 1.0, 1.0, math.nan, 0.0]
    assert difficulty(conditioned, direct)[:4] == [0.9, 0.5, 1.5, 1.0]
    assert ORDERS["ifd"](RowFacts([1] * 6, 0, conditioned, direct)) == [0, 1, 3, 2, 4, 5]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 600))
def test_take_tokens_is_the_nearest_prefix(lengths, tokens) -> None:
    """No other prefix of at least one row comes nearer to the wanted number of tokens."""
    order = list(range(len(lengths)))
    taken = take_tokens(order, lengths, tokens)
    assert taken == order[: len(taken)]
    assert len(taken) >= 1
    miss = abs(sum(lengths[: len(taken)]) - tokens)
    assert all(abs(sum(lengths[:n]) - tokens) >= miss for n in range(1, len(lengths) + 1))


def test_norm_takes_the_largest() -> None:
    """Largest first."""
    assert GRADIENT_METHODS["norm"](gram(np.diag([1.0, 3.0, 2.0])), 2) == [1, 2]
