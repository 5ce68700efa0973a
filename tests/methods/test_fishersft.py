"""FisherSFT against log determinants computed anew for every row, and its states against plain passes."""

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from oracles import method_oracle as oracle
from oracles.forked import spice
from oracles.runs import chat_rows, read_jsonl, write_jsonl
from spice_select import select
from spice_select.methods import ORDERS, RowFacts
from spice_select.pool.examples import read_pool
from spice_select.progress import NoProgress
from spice_select.proxy.lora import Proxy
from spice_select.schedule.token_states import TokenStates

METHOD = {"method": "fishersft", "budget": "6"}


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_picks_are_those_of_the_definition(seed, rows, dim, crowded) -> None:
    """Rows with more tokens than dimensions, without any, and copies."""
    rng = np.random.default_rng(seed)
    blocks = [rng.standard_normal((rng.integers(0, 7), dim)) * rng.choice([0.1, 1.0, 30.0]) for _ in range(rows)]
    blocks = [block + 0.01 * np.sign(block) for block in blocks]  # gains are far above the rounding of determinants
    if crowded:
        blocks = [blocks[rng.integers(0, rows)] for _ in range(rows)]
    facts = RowFacts([len(block) for block in blocks], 0, states=[torch.from_numpy(block) for block in blocks])
    expected = oracle.fishersft(blocks, rows)
    assert [*ORDERS["fishersft"](facts)] == expected


def test_few_rows_are_evaluated_again() -> None:
    """An earlier gain is an upper bound, so most rows wait."""

    class Counted(list):
        reads = 0

        def __getitem__(self, place):
            Counted.reads += 1
            return super().__getitem__(place)

    rng = np.random.default_rng(0)
    states = Counted(torch.from_numpy(rng.standard_normal((rng.integers(1, 30), 16))) for _ in range(200))
    assert len([*islice(ORDERS["fishersft"](RowFacts([1] * 200, 0, states=states)), 20)]) == 20
    assert Counted.reads < 200 + 20 * 100


@pytest.mark.parametrize(("batch_tokens", "dtype"), [(1, torch.float32), (200, torch.float32), (4096, torch.bfloat16)])
def test_states_are_what_predicts_the_response(tiny_model, tokenizer, batch_tokens, dtype):
    """Of every trained token the last hidden state of the token before it, from a plain pass over the row alone."""
    pool = read_pool([[*chat_rows(6, seed=2)]], tokenizer)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype).eval()
    states = TokenStates(pool.examples, Proxy(model, {}, batch_tokens), NoProgress())
    assert len(states) == 6 and states.not_finite == set()
    for found, example in zip(states, pool.examples, strict=True):
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([example.input_ids.tolist()]), output_hidden_states=True)
        expected = hidden.hidden_states[-1][0, np.flatnonzero(example.trained) - 1]
        assert found.dtype == dtype and found.shape == (example.trained_tokens, 32)
        torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 0.1, rtol=1e-4)


def test_batches_decide_no_pick(tiny_model):
    """Copies of rows, which tie, included."""
    rows = [*chat_rows(12), *({**row, "id": f"copy-{i}"} for i, row in enumerate(chat_rows(12)))]
    picks = [
        select(rows, model=tiny_model, **METHOD, batch_tokens=budget).records[0].picks for budget in (1, 300, 4096)
    ]
    assert picks[0] == picks[1] == picks[2]
    assert all(row - 12 in picks[0] for row in picks[0] if row >= 12), "the lower of two copies comes first"


def test_a_budget_in_tokens_is_the_nearest_prefix_and_a_finished_run_is_read_back(tiny_model, tmp_path):
    pool = write_jsonl(tmp_path / "p.jsonl", chat_rows(30))
    arguments = ["run", pool, "--model", tiny_model, "--method", "fishersft", "--output", tmp_path / "r"]
    done = spice(*arguments, "--budget", "200tok")
    assert done.returncode == 0, done.stderr
    order = select(pool, model=tiny_model, method="fishersft", budget="30")
    lengths = [line.trained_tokens for line in order.pool.lines]
    totals = np.cumsum([lengths[row] for row in order.records[0].picks])
    count = int(np.abs(totals - 200).argmin()) + 1
    kept = {row["id"] for row in read_jsonl(tmp_path / "r" / "selected.jsonl")}
    assert kept == {order.pool.lines[row].id for row in order.records[0].picks[:count]}
    assert spice(*arguments, "--budget", "200tok", "--resume").returncode == 0
    expected = spice(*arguments, "--budget", "5", "--dry-run")
    assert "not timed: the choice after the pass" in expected.stderr and "forecast" in expected.stdout
