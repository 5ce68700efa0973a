"""Laws of token-budget batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spice_select.errors import ConfigError
from spice_select.pool.batches import token_budget_batches

lengths_and_budget = (st.lists(st.integers(1, 300), max_size=60), st.integers(1, 1000))


@given(*lengths_and_budget)
def test_batches_partition_the_rows_within_the_budget(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(*lengths_and_budget)
def test_rows_are_sorted_and_batches_are_full(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    order = [i for batch in batches for i in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for batch in batches[:-1]:
        assert (len(batch) + 1) * lengths[batch[0]] > budget, "one more row would have fitted"


@given(*lengths_and_budget)
def test_order_of_equal_rows_is_their_order_in_the_pool(lengths, budget):
    assert token_budget_batches(lengths, budget) == token_budget_batches(tuple(lengths), budget)


@pytest.mark.parametrize("budget", [0, -5])
def test_budget_below_one_is_refused(budget):
    with pytest.raises(ConfigError, match="at least 1"):
        token_budget_batches([1], budget)
