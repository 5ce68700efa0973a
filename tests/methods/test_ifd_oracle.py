"""The two losses behind IFD against plain forward passes in float64, one row and one token after another."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from oracles.pool_families import FAMILIES
from oracles.pool_masks import assistant_characters, expected_tokens
from oracles.runs import chat_rows
from spice_select.errors import ModelError
from spice_select.methods.ifd import difficulty
from spice_select.pool.examples import read_pool
from spice_select.pool.types import PoolOptions
from spice_select.progress import NoProgress
from spice_select.proxy.lora import attach_lora
from spice_select.schedule.ranking import response_and_prompt_losses


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def proxy(tiny_model):
    return attach_lora(AutoModelForCausalLM.from_pretrained(tiny_model).eval(), 2, 4.0, 0)


def token_nll(model, context: list[int], token: int) -> float:
    """-log p(token | context)."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([context])).logits[0, -1]
    return -float(logits.log_softmax(-1)[token])


def li_et_al(model, tokenizer, row: dict) -> tuple[float, float]:
    """s(A|Q) over all N tokens of the answer; s(A) over the N - 1 that have a token before them (NaN for N = 1)."""
    text, spans = assistant_characters(FAMILIES["chatml"], tokenizer, row["messages"])
    ids, trained = expected_tokens(tokenizer, text, spans)
    after_prompt = [token_nll(model, ids[:t], ids[t]) for t in range(len(ids)) if trained[t]]
    answer = [token for token, wanted in zip(ids, trained, strict=True) if wanted]
    alone = [token_nll(model, answer[:t], answer[t]) for t in range(1, len(answer))]
    return float(np.mean(after_prompt)), float(np.mean(alone)) if alone else math.nan


@pytest.mark.parametrize("batch_tokens", [1, 200, 4096])
def test_both_losses_are_those_of_the_paper(tiny_model, tokenizer, proxy, batch_tokens):
    """Whatever the batches; an untrained adapter changes nothing; the prompt is not seen by the response alone."""
    rows = chat_rows(5, seed=3)
    rows.append({"id": "turns", "messages": rows[0]["messages"] + rows[1]["messages"]})
    plain = AutoModelForCausalLM.from_pretrained(tiny_model).eval().double()
    expected = [li_et_al(plain, tokenizer, row) for row in rows]
    examples = read_pool([rows], tokenizer).examples
    losses = response_and_prompt_losses(examples, replace(proxy, batch_tokens=batch_tokens), NoProgress())
    assert losses.conditioned == pytest.approx([given for given, _ in expected], abs=1e-5)
    assert losses.direct == pytest.approx([alone for _, alone in expected], abs=1e-5)
    ratios = [given / alone for given, alone in expected]
    assert difficulty(losses.conditioned, losses.direct) == pytest.approx(ratios, abs=1e-5)


def test_exhausted_memory_is_told_with_what_helps(tokenizer, proxy, monkeypatch):
    """No gradient is computed and nothing is resumed, so no option for that is named."""

    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr("spice_select.schedule.ranking.response_losses", exhausted)
    with pytest.raises(ModelError, match=r"^out of memory while measuring losses.*\n.*--batch-tokens") as told:
        response_and_prompt_losses(read_pool([chat_rows(2)], tokenizer).examples, proxy, NoProgress())
    assert "gradient" not in str(told.value) and "--resume" not in str(told.value)


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_a_response_of_one_token_has_no_loss_alone(tokenizer, proxy, batch_tokens):
    """Cut to one trained token; by itself in a batch, or beside a longer response."""
    rows = [row | {"messages": [{"role": "user", "content": "a b"}, row["messages"][1]]} for row in chat_rows(2)]
    whole = read_pool([rows], tokenizer).examples
    kept = int(np.flatnonzero(whole[0].trained)[0]) + 1
    short = read_pool([rows[:1]], tokenizer, PoolOptions(max_length=kept)).examples
    assert short[0].trained_tokens == 1
    examples = [*short, whole[1]]
    losses = response_and_prompt_losses(examples, replace(proxy, batch_tokens=batch_tokens), NoProgress())
    assert math.isnan(losses.direct[0]) and losses.direct[1] > 0
    assert min(losses.conditioned) > 0
