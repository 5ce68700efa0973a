"""Per-sample gradients against a plain LoRA training step and against one sample at a time, side by side.

    python benchmarks/gradient_speed.py POOL.jsonl --rows 256

The rows are cut into pools of 64. For every pool each arm runs once, in an order that rotates from pool to pool, so
each ratio is the median of repeated pairs. Writes its section of benchmarks/RESULTS.md.

Arms (same model, adapters, rows and batches of at most 2,048 padded tokens; forward and backward, no optimizer):
    capture      per-sample gradients of every row and the pool's Gram matrix, from merged layers
    plain        transformers' own forward with labels (logits everywhere), autograd's summed weight gradient
    plain, lean  the same with the output layer only where a token is trained, as capture does it
    one by one   autograd's gradient of one row at a time (the literal way), not even stored
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from report import machine, spread, write_section
from spice_select.config import RunConfig
from spice_select.gradients.gram import HeldGradients, pool_gram
from spice_select.gradients.loss import TokenRow, collate, response_losses
from spice_select.pool.examples import Example, PoolOptions, read_pool
from spice_select.proxy.loading import load_model, load_tokenizer, model_source, pick_device
from spice_select.proxy.lora import Proxy, attach_lora, merge
from spice_select.proxy.update import trainable

POOL_SIZE, MEMORY = 64, 4 << 30


@dataclass(frozen=True)
class Models:
    """The same proxy twice: with its layers merged, and as it trains."""

    merged: Proxy
    apart: Proxy
    held: HeldGradients


Arm = Callable[[Models, Sequence[Example], list[list[int]]], None]


def capture(models: Models, rows: Sequence[Example], batches: list[list[int]]) -> None:
    pool_gram(models.merged.model, models.merged.layers, rows, batches, MEMORY, models.held)


def plain(models: Models, rows: Sequence[Example], batches: list[list[int]]) -> None:
    training_step(models.apart, rows, batches)


def training_step(proxy: Proxy, rows: Sequence[TokenRow], batches: list[list[int]]) -> None:
    """Forward and backward of each batch as a trainer does it, without the optimizer."""
    with trainable(proxy):
        for members in batches:
            batch = collate([rows[i] for i in members], proxy.device)
            labels = torch.full_like(batch.input_ids, -100)
            labels[batch.owner, batch.position + 1] = batch.targets
            proxy.model(input_ids=batch.input_ids, labels=labels, use_cache=False).loss.backward()
            forget(proxy)


def lean(models: Models, rows: Sequence[Example], batches: list[list[int]]) -> None:
    lean_step(models.apart, rows, batches)


def lean_step(proxy: Proxy, rows: Sequence[TokenRow], batches: list[list[int]]) -> None:
    """The same with logits only where a token is trained."""
    with trainable(proxy):
        for members in batches:
            response_losses(proxy.model, collate([rows[i] for i in members], proxy.device)).sum().backward()
            forget(proxy)


def one_by_one(models: Models, rows: Sequence[Example], _: list[list[int]]) -> None:
    plain(models, rows, [[i] for i in range(len(rows))])


def forget(proxy: Proxy) -> None:
    for layer in proxy.factors.values():
        layer.weight.grad = None


ARMS: dict[str, Arm] = {"capture": capture, "plain": plain, "plain, lean": lean, "one by one": one_by_one}


def models_of(dtype: str, device: torch.device) -> tuple[Models, float]:
    """Both proxies, and the seconds that merging took."""
    merged, apart = (
        attach_lora(load_model(model_source(RunConfig()), dtype, device), 16, 32.0, seed=0) for _ in range(2)
    )
    begun = time.perf_counter()
    merge(merged)
    return Models(merged, apart, HeldGradients()), time.perf_counter() - begun


def measure(models: Models, examples: Sequence[Example]) -> dict[str, list[float]]:
    """Seconds of each arm for each pool."""
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    names = list(ARMS)
    for index, start in enumerate(range(0, len(examples), POOL_SIZE)):
        rows = examples[start : start + POOL_SIZE]
        batches = models.merged.batches([len(row.input_ids) for row in rows])
        for name in names[index % len(names) :] + names[: index % len(names)]:
            begun = time.perf_counter()
            ARMS[name](models, rows, batches)
            if models.merged.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - begun)
            print(f"pool {index}: {name} {seconds[name][-1]:.1f} s", flush=True)
    return seconds


def table(seconds: dict[str, list[float]], rows: int) -> list[str]:
    lines = [
        "| arm | seconds in all | rows/s | capture's rows/s over this arm's: median (min to max) of the pools |",
        "| --- | --: | --: | --: |",
    ]
    for name, values in seconds.items():
        ratio = spread([other / own for own, other in zip(seconds["capture"], values, strict=True)])
        lines.append(f"| {name} | {sum(values):.1f} | {rows / sum(values):.2f} | {ratio} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    read = read_pool([arguments.pool], load_tokenizer(model_source(RunConfig())), PoolOptions())
    examples = read.examples[: arguments.rows]
    lines = [
        f"{len(examples)} rows, {sum(len(e.input_ids) for e in examples):,} tokens, pools of {POOL_SIZE}, "
        "batches of at most 2,048 padded tokens, SmolLM2-135M, LoRA r 16 on all linear layers.",
    ]
    for dtype in arguments.dtypes:
        models, merging = models_of(dtype, device)
        for arm in ARMS.values():
            arm(models, examples[:4], [[0, 1, 2, 3]])  # first use allocates and compiles
        seconds = measure(models, examples)
        lines += ["", f"In {dtype} (merging the layers, once for all pools: {merging:.2f} s):", ""]
        lines += table(seconds, len(examples))
    write_section("Per-sample gradients", "gradient_speed.py", [machine(device), "", *lines])


if __name__ == "__main__":
    main()
