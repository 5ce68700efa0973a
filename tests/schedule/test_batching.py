"""Token budgets: as given, constant on a CPU, from measured memory on a GPU."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from oracles.gradient_oracle import random_examples, tiny_proxy
from spice_select.config import RunConfig
from spice_select.proxy.lora import TOKENS_OF_A_PASS
from spice_select.schedule.batching import MOST_TOKENS, USED, fitting_budget, with_batch_tokens
from spice_select.schedule.candidate_pools import with_smaller_batches


@given(
    st.integers(0, 1 << 34), st.integers(1 << 10, 1 << 24), st.integers(1, 4000), st.integers(1, 8000),
    st.integers(0, 1 << 38),
)  # fmt: skip
def test_the_budget_fits_and_twice_as_much_would_not(fixed, per_token, small, more, room):
    """Memory grows linearly with the tokens of a pass."""
    large = small + more
    points = ((small, fixed + per_token * small), (large, fixed + per_token * large))
    budget = fitting_budget(*points, room)
    assert budget.bit_count() == 1 and budget <= MOST_TOKENS
    assert budget == 1 or fixed + per_token * budget <= USED * room * (1 + 1e-9) + 1
    assert budget == MOST_TOKENS or fixed + per_token * 2 * budget > USED * room * (1 - 1e-9) - 1


def test_one_row_that_cannot_be_cut_is_measured_against_nothing():
    """Two equal points must not make memory look free."""
    assert fitting_budget((1, 1 << 30), (1, 1 << 30), 20 << 30) == 16


def test_smaller_batches_are_really_smaller():
    """One halving may change no batch: halve until one changes; None where each batch is a single row."""
    proxy = replace(tiny_proxy("llama"), batch_tokens=65_536)
    lengths = [200] * 60 + [150] * 60
    seen = [proxy.batches(lengths)]
    while (proxy := with_smaller_batches(proxy, lengths)) is not None:
        seen.append(proxy.batches(lengths))
        assert seen[-1] != seen[-2]
    assert len(seen[0]) < len(seen[1]) and len(seen[-1]) == 120


def test_a_number_is_taken_as_it_is_and_a_cpu_measures_nothing(tmp_path):
    proxy, examples = tiny_proxy("llama"), random_examples(2, seed=1)
    assert with_batch_tokens(proxy, RunConfig(batch_tokens=123), examples, tmp_path).batch_tokens == 123
    assert with_batch_tokens(proxy, RunConfig(), examples, tmp_path).batch_tokens == TOKENS_OF_A_PASS
    assert not list(tmp_path.iterdir())
