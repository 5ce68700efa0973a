"""Laws of token-budget batches."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spice_select.errors import ConfigError
from spice_select.pool.batches import batches_within

OVERHEAD = 20
lengths_and_budget = (st.lists(st.integers(1, 300), max_size=60), st.integers(1, 1000))


@given(*lengths_and_budget)
def test_batches_partition_the_rows_within_the_budget(lengths, budget):
    batches = batches_within(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def cost(batches, lengths):
    return sum(len(batch) * max(lengths[i] for i in batch) + OVERHEAD for batch in batches)


def every_cut(order):
    """All ways to cut a list into runs."""
    if not order:
        yield []
    for stop in range(1, len(order) + 1):
        for rest in every_cut(order[stop:]):
            yield [order[:stop], *rest]


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), max_size=9), st.integers(1, 1000))
def test_no_other_cut_of_the_sorted_rows_costs_less(lengths, budget):
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    allowed = [
        cut
        for cut in every_cut(order)
        if all(len(batch) == 1 or len(batch) * lengths[batch[0]] <= budget for batch in cut)
    ]
    assert cost(batches_within(lengths, budget, OVERHEAD), lengths) == min(cost(cut, lengths) for cut in allowed)


@given(*lengths_and_budget)
def test_the_largest_batch_comes_first_and_rows_are_sorted_within(lengths, budget):
    batches = batches_within(lengths, budget)
    sizes = [len(batch) * lengths[batch[0]] for batch in batches]
    assert sizes == sorted(sizes, reverse=True)
    for batch in batches:
        assert batch == sorted(batch, key=lambda i: (-lengths[i], i))


@given(*lengths_and_budget)
def test_order_of_equal_rows_is_their_order_in_the_pool(lengths, budget):
    assert batches_within(lengths, budget) == batches_within(tuple(lengths), budget)


@pytest.mark.parametrize("budget", [0, -5])
def test_budget_below_one_is_refused(budget):
    with pytest.raises(ConfigError, match="at least 1"):
        batches_within([1], budget)
