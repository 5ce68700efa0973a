"""Held-out losses against one row at a time in float64; batches, order and limits change nothing they should not."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from oracles.evaluation_oracle import oracle_losses
from oracles.gradient_oracle import random_examples
from oracles.runs import chat_rows, read_jsonl, write_jsonl
from spice_select.errors import ConfigError, ModelError
from spice_select.evaluation.evaluate import evaluate, evaluation_json
from spice_select.evaluation.heldout import RowLoss, compare, heldout_loss, limited, row_losses, summarise_losses
from spice_select.pool.examples import read_pool


def silent(rows, tokens):
    pass


@pytest.fixture(scope="module")
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def pool(tokenizer, chat_pool):
    return read_pool([chat_pool], tokenizer)


@pytest.fixture(scope="module")
def reference(model, tokenizer, chat_pool):
    return oracle_losses(model, tokenizer, read_jsonl(chat_pool))


@pytest.mark.parametrize("batch_tokens", [1, 300, 2048, 100_000])
def test_losses_are_the_oracles_whatever_the_batches(model, pool, reference, batch_tokens):
    done = []
    losses = row_losses(model, pool.examples, batch_tokens, lambda rows, tokens: done.append((rows, tokens)))
    assert losses == pytest.approx(reference, abs=1e-5)
    assert [sum(column) for column in zip(*done, strict=True)] == [len(pool.examples), pool.total_tokens]


def test_multi_turn_rows_are_the_oracles(model, tokenizer):
    """Every assistant turn counts, its end-of-turn token included; the questions do not."""
    rows = [
        {"id": str(i), "messages": a["messages"] + b["messages"]}
        for i, (a, b) in enumerate(zip(chat_rows(6, 1), chat_rows(6, 2), strict=True))
    ]
    losses = row_losses(model, read_pool([rows], tokenizer).examples, 500, silent)
    assert losses == pytest.approx(oracle_losses(model, tokenizer, rows), abs=1e-5)


def test_the_order_of_rows_makes_no_difference(model, tokenizer, chat_pool, pool, tmp_path):
    rows = read_jsonl(chat_pool)
    random.Random(3).shuffle(rows)
    shuffled = read_pool([write_jsonl(tmp_path / "shuffled.jsonl", rows)], tokenizer)
    before, after = (heldout_loss(model, p, 700, resamples=200) for p in (pool, shuffled))
    losses = {row.id: row.loss for row in after.rows}
    assert [losses[row.id] for row in before.rows] == pytest.approx([row.loss for row in before.rows], abs=1e-5)
    assert after.macro == pytest.approx(before.macro, abs=1e-6)
    assert after.macro_interval.low == pytest.approx(before.macro_interval.low, abs=1e-5)
    assert [s.source for s in after.sources] == [s.source for s in before.sources] == ["even", "odd"]


def test_means_are_what_they_say():
    rows = [RowLoss("1", "a", 1, 2.0), RowLoss("2", "a", 3, 4.0), RowLoss("3", "b", 2, 1.0)]
    summary = summarise_losses(rows, 100)
    a, b = summary.sources
    assert (a.rows, a.trained_tokens, a.mean, a.token_mean) == (2, 4, 3.0, 3.5)
    assert (b.rows, b.trained_tokens, b.mean, b.token_mean) == (1, 2, 1.0, 1.0)
    assert summary.macro == 2.0 and summary.mean == pytest.approx(7 / 3)
    assert a.interval.low < 3.0 < a.interval.high
    assert b.interval is None and summary.macro_interval is None, "one row does not show how rows differ"


def test_token_mean_is_the_loss_of_all_tokens_joined(model, pool, reference):
    """Weighted by tokens, it does not matter how tokens are cut into rows."""
    summary = heldout_loss(model, pool, resamples=10)
    for source in summary.sources:
        places = [i for i, example in enumerate(pool.examples) if example.row.source == source.source]
        tokens = [pool.examples[i].trained_tokens for i in places]
        total = sum(reference[i] * n for i, n in zip(places, tokens, strict=True))
        assert source.token_mean == pytest.approx(total / sum(tokens), abs=1e-5)
        assert source.mean == pytest.approx(np.mean([reference[i] for i in places]), abs=1e-5)


def test_limit_takes_the_first_rows_of_each_source(pool):
    few = limited(pool, 3)
    assert [example.id for example in few.examples] == [f"row-{i}" for i in range(6)]
    assert [example.index for example in few.examples] == list(range(6))
    assert limited(pool, None) is pool and len(limited(pool, 1000).examples) == len(pool.examples)
    with pytest.raises(ConfigError, match="limit_per_source"):
        limited(pool, 0)


def test_nothing_is_left_on_the_model(model, pool):
    """No gradient is asked for, no hook stays, and the full logits come back as before."""
    ids = torch.tensor([[5, 6, 7]])
    before = model(input_ids=ids).logits
    heldout_loss(model, limited(pool, 2), resamples=2)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert all(p.grad is None for p in model.parameters())


def test_evaluate_equals_its_parts(tiny_model, chat_pool, model, pool):
    whole = evaluate(tiny_model, chat_pool, device="cpu", resamples=50, seed=4)
    parts = heldout_loss(model, pool, resamples=50, seed=4)
    assert whole.heldout == parts
    report = evaluation_json(whole)
    assert report["sources"]["odd"]["interval"][0] <= report["sources"]["odd"]["mean"]
    assert report["rows"]["row-5"]["loss"] == whole.heldout.rows[5].loss
    few = evaluate(tiny_model, [chat_pool], device="cpu", limit_per_source=2, max_length=100, resamples=5)
    assert [row.id for row in few.heldout.rows] == ["row-0", "row-1", "row-2", "row-3"]


def test_compare_needs_the_same_tokens(pool, model):
    summary = heldout_loss(model, limited(pool, 3), resamples=5)
    assert compare(summary, summary, 5).macro == 0.0
    other = [replace(row, trained_tokens=row.trained_tokens + 1) for row in summary.rows]
    with pytest.raises(ConfigError, match="different numbers of tokens"):
        compare(summary, summarise_losses(other, 5), 5)


def test_a_loss_that_is_no_number_names_its_row(tiny_model, pool):
    broken = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    with torch.no_grad():
        broken.lm_head.weight[7] = float("nan")
    with pytest.raises(ModelError, match="row 'row-0'"):
        heldout_loss(broken, pool)


def test_a_tokenizer_of_another_model_is_refused(tiny_model, pool):
    small = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    small.resize_token_embeddings(40)
    with pytest.raises(ModelError, match="do not belong together"):
        heldout_loss(small, pool)


@pytest.mark.parametrize(("batch_tokens", "clue"), [(100_000, "Lower --batch-tokens"), (1, "Lower --max-length")])
def test_out_of_memory_says_what_helps(tiny_model, pool, batch_tokens, clue):
    """A budget below one row changes nothing, so then it is not advised."""
    full = AutoModelForCausalLM.from_pretrained(tiny_model).eval()

    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    full.model.layers[1].register_forward_pre_hook(exhausted)
    with pytest.raises(ModelError, match="out of memory while measuring") as caught:
        heldout_loss(full, pool, batch_tokens)
    assert clue in str(caught.value) and len(str(caught.value).splitlines()) == 2


def test_token_rows_need_no_pool(model):
    """`row_losses` takes anything with tokens and a mask, spans and single targets included."""
    examples = random_examples(9, seed=5)
    alone = [row_losses(model, [example], 1, silent)[0] for example in examples]
    assert row_losses(model, examples, 60, silent) == pytest.approx(alone, abs=1e-5)
