"""Gradients on one GPU: into a store, beside a plain LoRA training step, one row at a time, and bergson.

    python benchmarks/gpu_speed.py --write-lengths lengths.json POOL.jsonl     where the pool is: its rows' lengths
    python benchmarks/gpu_speed.py lengths.json                                on the GPU: no pool, no model files

Qwen2.5-0.5B's configuration with random weights in bfloat16, random tokens, lengths of real rows. Each arm takes whole
batches for about the same time; figures are tokens that are not padding, a second. `store` is all that `gradients`
does: batches, gradients, projection, shards on disk. `plain` is transformers' own forward with labels, logits
everywhere, in batches of at most 16,384 padded tokens (more logits than that do not fit); `plain, lean` has the
output layer only where a token is trained, in the store's batches. Ends with the kernels that take most of the store's
time. Writes its section of benchmarks/RESULTS.md.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from gradient_speed import lean_step, training_step
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2Config, Qwen2ForCausalLM

from report import machine, spread, write_section
from spice_select.config import RunConfig
from spice_select.files.atomic import write_bytes
from spice_select.gradients.projection import Projection, project_rows
from spice_select.pool.examples import PoolOptions, read_pool
from spice_select.proxy.loading import load_tokenizer, model_source, pick_device
from spice_select.proxy.lora import Proxy, attach_lora, merge
from spice_select.schedule.batching import with_batch_tokens
from spice_select.store.layout import SHARD_ROWS, SHARD_ROWS_ON_GPU, Shape, shard_bytes

DIM, PAIRS, PROFILED = 4096, 3, 256
PLAIN_TOKENS = 16_384
"""Padded tokens a pass of an arm that computes logits everywhere."""
QWEN = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 32768,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Random tokens; the last ones are trained."""

    input_ids: np.ndarray
    trained: np.ndarray


@dataclass(frozen=True)
class Models:
    """The same proxy twice: with its layers merged, and as it trains."""

    merged: Proxy
    apart: Proxy
    projection: Projection


def write_lengths(pool: str, to: Path) -> None:
    """Tokens and trained tokens of each row under the embedded model's tokenizer."""
    examples = read_pool([pool], load_tokenizer(model_source(RunConfig())), PoolOptions()).examples
    to.write_text(json.dumps([[len(example.input_ids), example.trained_tokens] for example in examples]))


def rows_of(lengths: Sequence[Sequence[int]]) -> list[Row]:
    generator = np.random.default_rng(0)
    return [
        Row(generator.integers(0, QWEN["vocab_size"], tokens, dtype=np.int32), np.arange(tokens) >= tokens - trained)
        for tokens, trained in lengths
    ]


def models_of(rows: Sequence[Row], device: torch.device) -> Models:
    def fresh() -> Proxy:
        torch.manual_seed(0)
        with device:
            model = Qwen2ForCausalLM(Qwen2Config(**QWEN)).to(torch.bfloat16)
        proxy = attach_lora(model.eval().requires_grad_(False), 16, 32.0, 0)
        return with_batch_tokens(proxy, RunConfig(), rows, None)

    merged = fresh()
    merge(merged)
    apart = replace(fresh(), batch_tokens=min(merged.batch_tokens, PLAIN_TOKENS))
    return Models(merged, apart, Projection(merged.factors, DIM, 0))


def store(models: Models, rows: Sequence[Row], folder: Path) -> None:
    size = SHARD_ROWS_ON_GPU if models.merged.device.type == "cuda" else SHARD_ROWS
    for number in range(0, len(rows), size):
        shard = rows[number : number + size]
        batches = models.merged.batches([len(row.input_ids) for row in shard])
        found = project_rows(models.merged.model, models.merged.layers, shard, batches, models.projection)
        write_bytes(folder / f"{number}", shard_bytes(Shape(len(shard), DIM, size), 0, *found, "none"))


def plain(models: Models, rows: Sequence[Row], _: Path) -> None:
    training_step(models.apart, rows, models.apart.batches([len(row.input_ids) for row in rows]))


def lean(models: Models, rows: Sequence[Row], _: Path) -> None:
    lean_step(models.apart, rows, models.merged.batches([len(row.input_ids) for row in rows]))


def one_by_one(models: Models, rows: Sequence[Row], folder: Path) -> None:
    for row in rows:
        plain(models, [row], folder)


def bergson(models: Models, rows: Sequence[Row], folder: Path) -> None:
    from bergson.collection import collect_gradients
    from bergson.config.config import IndexConfig
    from bergson.data import allocate_batches
    from bergson.gradients import GradientProcessor
    from datasets import Dataset

    data = Dataset.from_dict(
        {
            "input_ids": [row.input_ids.tolist() for row in rows],
            "labels": [np.where(row.trained, row.input_ids, -100).tolist() for row in rows],
            "length": [len(row.input_ids) for row in rows],
        }
    )
    model = models.apart.model
    model.get_input_embeddings().requires_grad_(True)
    prefix = model.base_model_prefix + "."
    config = IndexConfig(run_path=str(folder / "index"), projection_dim=4, loss_reduction="mean")
    config.partial_run_path.mkdir(parents=True)
    try:
        collect_gradients(
            model,
            data,
            GradientProcessor(projection_dim=4),
            config,
            batches=allocate_batches(data["length"][:], max(models.apart.batch_tokens, max(data["length"]))),
            target_modules={name.removeprefix(prefix) for name in models.apart.factors},
        )
    finally:
        model.get_input_embeddings().requires_grad_(False)


Arm = Callable[[Models, Sequence[Row], Path], None]
ARMS: dict[str, tuple[Arm, float]] = {
    "store": (store, 1.0), "plain": (plain, 0.5), "plain, lean": (lean, 0.5), "one by one": (one_by_one, 0.008),
    "bergson": (bergson, 0.15),
}  # fmt: skip
"""Each arm, and the part of the rows that it takes."""


def speed(arm: Arm, models: Models, rows: Sequence[Row]) -> float:
    """Tokens a second."""
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.perf_counter()
        arm(models, rows, Path(scratch))
        if models.merged.device.type == "cuda":
            torch.cuda.synchronize()
        return sum(len(row.input_ids) for row in rows) / (time.perf_counter() - begun)


def kernels(models: Models, rows: Sequence[Row]) -> list[str]:
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if models.merged.device.type == "cuda" else [])
    with profile(activities=activities) as found, tempfile.TemporaryDirectory() as scratch:
        store(models, rows, Path(scratch))
    by = "self_cuda_time_total" if len(activities) > 1 else "self_cpu_time_total"
    return ["```", found.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=60).strip(), "```"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="lengths.json; with --write-lengths the pool")
    parser.add_argument("--write-lengths", type=Path)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    arguments = parser.parse_args()
    if arguments.write_lengths:
        write_lengths(arguments.source, arguments.write_lengths)
        return
    rows = rows_of(json.loads(Path(arguments.source).read_text())[: arguments.rows])
    models = models_of(rows, pick_device("auto"))
    parts = {name: rows[: max(1, int(ARMS[name][1] * len(rows)))] for name in arguments.arms}
    found: dict[str, list[float]] = {name: [] for name in arguments.arms}
    for round_ in range(PAIRS + 1):  # the first warms up
        for name, part in parts.items():
            value = speed(ARMS[name][0], models, part)
            if round_:
                found[name].append(value)
            print(name, f"{value:,.0f} tokens/s", flush=True)
    lines = [
        machine(models.merged.device),
        "",
        f"{len(rows):,} rows, {sum(len(row.input_ids) for row in rows):,} tokens, at most "
        f"{models.merged.batch_tokens:,} padded tokens a pass ({models.apart.batch_tokens:,} in the arms with logits "
        "everywhere: plain and bergson). Random weights; a store's shards as of a large pool.",
        "",
        "| arm | tokens/s, median | store's over this arm's: median (min to max) |",
        "| --- | --: | --: |",
    ]
    for name, values in found.items():
        ratio = spread([own / other for own, other in zip(found["store"], values, strict=True)])
        lines.append(f"| {name} | {statistics.median(values):,.0f} | {ratio} |")
    write_section("Gradients on a GPU", "gpu_speed.py", [*lines, "", *kernels(models, rows[:PROFILED])])


if __name__ == "__main__":
    main()
