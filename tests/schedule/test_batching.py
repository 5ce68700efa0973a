"""Token budgets: as given, constant on a CPU, from measured memory on a GPU."""

from hypothesis import given
from hypothesis import strategies as st

from oracles.gradient_oracle import random_examples, tiny_proxy
from spice_select.config import RunConfig
from spice_select.proxy.lora import TOKENS_OF_A_PASS
from spice_select.schedule.batching import MOST_TOKENS, USED, fitting_budget, with_token_budget


@given(
    st.integers(0, 1 << 34), st.integers(1 << 10, 1 << 24), st.integers(1, 4000), st.integers(1, 8000),
    st.integers(0, 1 << 38),
)  # fmt: skip
def test_the_budget_fits_and_twice_as_much_would_not(fixed, per_token, small, more, room):
    """Where memory grows evenly, as it does."""
    large = small + more
    points = ((small, fixed + per_token * small), (large, fixed + per_token * large))
    budget = fitting_budget(*points, room)
    assert budget.bit_count() == 1 and budget <= MOST_TOKENS
    assert budget == 1 or fixed + per_token * budget <= USED * room * (1 + 1e-9) + 1
    assert budget == MOST_TOKENS or fixed + per_token * 2 * budget > USED * room * (1 - 1e-9) - 1


def test_a_number_is_taken_as_it_is_and_a_cpu_measures_nothing():
    def never(_):
        raise AssertionError

    proxy, examples = tiny_proxy("llama"), random_examples(2, seed=1)
    assert with_token_budget(proxy, RunConfig(token_budget=123), examples, never).token_budget == 123
    assert with_token_budget(proxy, RunConfig(), examples, never).token_budget == TOKENS_OF_A_PASS
