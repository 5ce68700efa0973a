"""What an NVIDIA GPU must do as a CPU does: gradients, subsets, losses; and what only it has: an end of memory."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from oracles.gradient_oracle import (
    FAMILIES,
    VOCABULARY,
    TokenExample,
    gram_error,
    gram_of,
    mixed_proxy,
    oracle_gradients,
    random_examples,
    tiny_proxy,
)
from oracles.runs import read_jsonl
from spice_select import evaluate, finetune
from spice_select.config import RunConfig
from spice_select.gradients.projection import Projection, project_rows
from spice_select.proxy.lora import attach_lora, merge
from spice_select.schedule.batching import FILE, MOST_TOKENS, with_batch_tokens

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")
FAST = ["--candidates", "10", "--update-every", "2", "--update-batch-size", "4", "--lora-rank", "2", "--budget", "20%"]


def on_gpu(family, dtype=torch.float32):
    proxy = mixed_proxy(family, dtype)
    proxy.model.to("cuda")
    return proxy


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("budget", "memory"), [(1, 1 << 40), (40, 2_000), (10_000, 1 << 40)])
def test_the_gram_matrix_is_that_of_a_cpu_one_row_at_a_time(family, budget, memory):
    examples = random_examples(9, seed=1)
    gradients = oracle_gradients(tiny_proxy(family), examples)
    proxy = on_gpu(family)
    assert gram_error(gram_of(proxy, examples, budget, memory), gradients @ gradients.T) < 1e-5
    merge(proxy)
    assert gram_error(gram_of(proxy, examples, budget, memory), gradients @ gradients.T) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_near(family):
    examples = random_examples(9, seed=1)
    gradients = oracle_gradients(tiny_proxy(family), examples)
    proxy = on_gpu(family, torch.bfloat16)
    whole = gram_of(proxy, examples, 40)
    assert gram_error(whole, gradients @ gradients.T) < 0.05
    assert gram_error(gram_of(proxy, examples, 40, memory=2_000), whole) < 1e-5


def test_features_are_those_of_a_cpu():
    examples, batches = random_examples(30, seed=3), [range(11), range(11, 30)]
    found = []
    for proxy in (tiny_proxy("qwen2"), on_gpu("qwen2")):
        found.append(project_rows(proxy.model, proxy.layers, examples, batches, Projection(proxy.factors, 64, 0)))
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm() / one.norm()) < 1e-4


def large_rows(count):
    generator = np.random.default_rng(0)
    return [
        TokenExample(generator.integers(1, VOCABULARY, 512, dtype=np.int32), np.arange(512) > 0) for _ in range(count)
    ]


def middling_proxy():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    return attach_lora(LlamaForCausalLM(config).to("cuda").eval().requires_grad_(False), 4, 8.0, 0)


def test_a_batch_beyond_the_memory_is_cut_and_nothing_is_lost():
    proxy, rows = middling_proxy(), large_rows(128)
    projection = Projection(proxy.factors, 512, 0)
    expected = project_rows(
        proxy.model, proxy.layers, rows, [range(start, start + 8) for start in range(0, 128, 8)], projection
    )
    torch.cuda.empty_cache()
    before, total = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[1]
    torch.cuda.reset_peak_memory_stats()
    project_rows(proxy.model, proxy.layers, rows, [range(128)], projection)
    needed = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((before + 0.4 * needed) / total)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(needed, dtype=torch.uint8, device="cuda")
        found = project_rows(proxy.model, proxy.layers, rows, [range(128)], projection)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


def test_the_measured_budget_fits_and_is_kept(tmp_path):
    proxy, rows = middling_proxy(), large_rows(256)
    measured = with_batch_tokens(proxy, RunConfig(candidates="all"), rows, tmp_path)
    assert measured.batch_tokens.bit_count() == 1 and 512 <= measured.batch_tokens <= MOST_TOKENS
    free = torch.cuda.mem_get_info()[0]
    torch.cuda.reset_peak_memory_stats()
    batch = measured.batches([512] * 256)[0]
    project_rows(measured.model, measured.layers, rows, [batch], Projection(measured.factors, 64, 0))
    assert torch.cuda.max_memory_allocated() < free
    kept = tmp_path / FILE
    kept.write_text(kept.read_text().replace(str(measured.batch_tokens), "1024"))
    assert with_batch_tokens(proxy, RunConfig(candidates="all"), rows, tmp_path).batch_tokens == 1024


def spice(*arguments):
    command = [sys.executable, "-m", "spice_select", *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("options", [FAST, ["--candidates", "all", "--dim", "512", "--budget", "20%"]])
def test_a_run_chooses_what_it_chooses_on_a_cpu_whatever_the_batches(tmp_path, tiny_model, chat_pool, options):
    chosen = []
    for number, machine in enumerate((["cpu"], ["cuda"], ["cuda", "--batch-tokens", "64"])):
        output = tmp_path / str(number)
        own = ["--dtype", "float32", "--output", output, "--device", *machine]
        spice("run", chat_pool, "--model", tiny_model, *options, *own)
        chosen.append([row["id"] for row in read_jsonl(output / "selected.jsonl")])
    assert chosen[0] == chosen[1] == chosen[2] and chosen[0]


def test_the_default_run_trains_and_is_measured(tmp_path, tiny_model, chat_pool):
    """All that is automatic: bfloat16, the batches, the update of the proxy in between, TRL on the GPU."""
    spice("run", chat_pool, "--model", tiny_model, "--output", tmp_path / "run", *FAST)
    losses = []
    for device in ("cpu", "cuda"):
        output = tmp_path / device
        finetune(str(tmp_path / "run"), model=tiny_model, output=output, device=device, dtype="float32")
        found = evaluate(str(output), data=[str(chat_pool)], device=device, dtype="float32")
        losses.append([row.loss for row in found.heldout.rows])
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
