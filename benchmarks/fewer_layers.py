"""What fewer layers and a lower precision save, and how much of the choice they keep.

    python benchmarks/fewer_layers.py POOL.jsonl --rows 240

Rows are cut into candidate pools of 120 and a tenth is picked, with the defaults. Each setting warms its proxy up and
computes its gradients; its picks are compared with those of all layers in float32: how many are shared, and which
part of their information they reach, measured on that setting's Gram matrix. Another seed of LoRA's start, warm-up
rows apart the same, shows what chance alone changes. Writes its section of benchmarks/RESULTS.md.
"""

import argparse
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from report import machine, on, write_section
from spice_select.config import RunConfig, resolve
from spice_select.gradients.gram import HeldGradients, pool_gram
from spice_select.information import (
    gradient_scales,
    information,
    principal_gram,
    principal_rank,
    relative_alpha,
    scale_gram,
)
from spice_select.pool.examples import Example, PoolOptions, read_pool
from spice_select.progress import NoProgress
from spice_select.proxy.loading import load_model, load_tokenizer, model_source, pick_device
from spice_select.proxy.lora import attach_lora, merge
from spice_select.proxy.update import ProxyOptimizer
from spice_select.schedule.pick_in_pool import pick_in_pool
from spice_select.schedule.pools import CandidatePool, cut_pools
from spice_select.schedule.proxy_training import warm_up

SETTINGS: dict[str, dict[str, object]] = {
    "all layers, float32": {},
    "another seed": {"seed": 1},
    "last:20": {"layers": "last:20"},
    "last:10": {"layers": "last:10"},
    "last:4": {"layers": "last:4"},
    "last:1": {"layers": "last:1"},
    "bfloat16": {"dtype": "bfloat16"},
}


@dataclass(frozen=True)
class Found:
    """What one setting leads to."""

    seconds: float
    parameters: int
    grams: list[Tensor]
    picks: list[list[int]]


def look(examples: list[Example], pools: list[CandidatePool], config: RunConfig) -> Found:
    model = load_model(model_source(config), config.dtype, pick_device("auto"))
    proxy = attach_lora(model, config.lora_rank, config.lora_alpha, config.seed, config.last_blocks)
    same_rows = config.model_copy(update={"seed": 0})
    optimizer = ProxyOptimizer(proxy, config.learning_rate, config.lr_warmup_steps)
    warm_up(optimizer, examples, same_rows, NoProgress())
    merge(proxy)
    grams, picks, seconds, held = [], [], 0.0, HeldGradients()
    for pool in pools:
        rows = [examples[i] for i in pool.rows]
        batches = proxy.batches([len(row.input_ids) for row in rows])
        started = time.perf_counter()
        grams.append(pool_gram(proxy.model, proxy.layers, rows, batches, 4 << 30, held)[0])
        seconds += time.perf_counter() - started
        picks.append(pick_in_pool(pool, grams[-1], [row.trained_tokens for row in rows], same_rows, 0.0).picks)
    return Found(seconds, proxy.parameters, grams, picks)


def reached(gram: Tensor, lengths: Tensor, picks: list[int], best: list[int]) -> tuple[float, float]:
    """Information of `picks` and of `best` under the defaults on `gram`."""
    scaled = scale_gram(gram, gradient_scales("geometric", lengths, gram.diagonal()))
    scaled = principal_gram(scaled, principal_rank(len(best)))
    alpha = relative_alpha(scaled, 1.0)
    return information(scaled, picks, alpha), information(scaled, best, alpha)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool")
    parser.add_argument("--rows", type=int, default=240)
    arguments = parser.parse_args()
    read = read_pool([arguments.pool], load_tokenizer(model_source(RunConfig())), PoolOptions())
    everything = read.examples
    examples = everything[:: max(1, len(everything) // arguments.rows)][: arguments.rows]
    pools = cut_pools(len(examples), 120, len(examples) // 10, seed=0)
    found = {}
    for name, options in SETTINGS.items():
        found[name] = look(examples, pools, resolve({}, {"dtype": "float32", **options}))
        print(name, f"{found[name].seconds:.1f} s", flush=True)
    reference = found["all layers, float32"]
    lines = [
        machine(pick_device("auto")),
        "",
        f"{len(examples)} rows in pools of 120, {sum(pool.quota for pool in pools)} picks, SmolLM2-135M (30 blocks).",
        "",
        "| gradients | coordinates | seconds | rows/s over all layers' | picks shared | their U, of the best picks' |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name, one in found.items():
        shared = sum(len(set(a) & set(b)) for a, b in zip(one.picks, reference.picks, strict=True))
        values = [
            reached(gram, torch.tensor([examples[i].trained_tokens for i in pool.rows]), picks, best)
            for gram, pool, picks, best in zip(reference.grams, pools, one.picks, reference.picks, strict=True)
        ]
        share = sum(value for value, _ in values) / sum(value for _, value in values)
        total = sum(map(len, reference.picks))
        lines.append(
            f"| {name} | {one.parameters:,} | {one.seconds:.1f} | {reference.seconds / one.seconds:.2f} | "
            f"{shared} of {total} | {share:.3f} |"
        )
    write_section(on("Fewer layers and lower precision", pick_device("auto")), "fewer_layers.py", lines)


if __name__ == "__main__":
    main()
