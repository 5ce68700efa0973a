"""Per-sample gradients against a plain LoRA training step and against one sample at a time, side by side.

    python benchmarks/gradient_speed.py POOL.jsonl --rows 256

The rows are cut into pools of 32. For every pool each arm runs once, in an order that rotates from pool to pool, so
each ratio is the median of repeated pairs. Writes its section of benchmarks/RESULTS.md.

Arms (same model, adapters, rows and batches of 2,048 padded tokens; forward and backward, no optimizer):
    capture      per-sample gradients of every row and the pool's Gram matrix
    plain        transformers' own forward with labels (logits everywhere), autograd's summed weight gradient
    plain, lean  the same with the output layer only where a token is trained, as capture does it
    one by one   autograd's gradient of one row at a time (the literal way), not even stored
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from report import machine, write_section

from spice_select.config import RunConfig
from spice_select.gradients.gram import pool_gram
from spice_select.gradients.loss import collate, response_losses
from spice_select.pool.batches import token_budget_batches
from spice_select.pool.examples import Example, PoolOptions, read_pool
from spice_select.proxy.loading import load_model, load_tokenizer, model_source, pick_device
from spice_select.proxy.lora import Proxy, attach_lora
from spice_select.proxy.update import trainable

POOL_SIZE, TOKEN_BUDGET, MEMORY = 32, 2048, 4 << 30
Arm = Callable[[Proxy, Sequence[Example], list[list[int]]], None]


def capture(proxy: Proxy, rows: Sequence[Example], batches: list[list[int]]) -> None:
    pool_gram(proxy.model, proxy.factors, rows, batches, MEMORY)


def plain(proxy: Proxy, rows: Sequence[Example], batches: list[list[int]]) -> None:
    with trainable(proxy):
        for members in batches:
            batch = collate([rows[i] for i in members], proxy.device)
            labels = torch.full_like(batch.input_ids, -100)
            owner, position = batch.predicts.nonzero(as_tuple=True)
            labels[owner, position + 1] = batch.targets
            proxy.model(input_ids=batch.input_ids, labels=labels, use_cache=False).loss.backward()
            forget(proxy)


def lean(proxy: Proxy, rows: Sequence[Example], batches: list[list[int]]) -> None:
    with trainable(proxy):
        for members in batches:
            response_losses(proxy.model, collate([rows[i] for i in members], proxy.device)).sum().backward()
            forget(proxy)


def one_by_one(proxy: Proxy, rows: Sequence[Example], _: list[list[int]]) -> None:
    plain(proxy, rows, [[i] for i in range(len(rows))])


def forget(proxy: Proxy) -> None:
    for layer in proxy.factors.values():
        layer.weight.grad = None


ARMS: dict[str, Arm] = {"capture": capture, "plain": plain, "plain, lean": lean, "one by one": one_by_one}


def measure(proxy: Proxy, examples: Sequence[Example]) -> dict[str, list[float]]:
    """Seconds of each arm for each pool."""
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    names = list(ARMS)
    for index, start in enumerate(range(0, len(examples), POOL_SIZE)):
        rows = examples[start : start + POOL_SIZE]
        batches = token_budget_batches([len(row.input_ids) for row in rows], TOKEN_BUDGET)
        for name in names[index % len(names) :] + names[: index % len(names)]:
            begun = time.perf_counter()
            ARMS[name](proxy, rows, batches)
            if proxy.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - begun)
            print(f"pool {index}: {name} {seconds[name][-1]:.1f} s", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    source = model_source(RunConfig())
    examples = read_pool([arguments.pool], load_tokenizer(source), PoolOptions()).examples[: arguments.rows]
    proxy = attach_lora(load_model(source, "float32", pick_device(arguments.device)), 16, 32.0, seed=0)
    plain(proxy, examples[:4], [[0, 1, 2, 3]])  # first use allocates and compiles
    seconds = measure(proxy, examples)
    lines = [
        f"{len(examples)} rows, {sum(len(e.input_ids) for e in examples):,} tokens, pools of {POOL_SIZE}, "
        f"batches of {TOKEN_BUDGET:,} padded tokens, SmolLM2-135M, LoRA r 16 on all linear layers, float32.",
        "",
        "| arm | seconds in all | rows/s | capture's rows/s over this arm's: median (min to max) of the pools |",
        "| --- | --- | --- | --- |",
    ]
    for name, values in seconds.items():
        ratios = [other / own for own, other in zip(seconds["capture"], values, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {name} | {sum(values):.1f} | {len(examples) / sum(values):.2f} | {ratio} |")
    write_section("Per-sample gradients", "gradient_speed.py", [machine(proxy.device), "", *lines])


if __name__ == "__main__":
    main()
