#!/usr/bin/env python3
"""Train LoRA on rows that are chosen while it trains, and on as many random rows: which learns more of held-out rows?

    python examples/train_while_selecting.py [--seeds 3] [--output DIR]

A seed takes a few minutes on two CPU cores with the embedded model. Each training is on 32 of 160 rows of
examples/pool.jsonl; the held-out rows are 32 plain ones of which the others hold no copy. Needs trl.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import LoraConfig, get_peft_model
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from spice_select.config import RunConfig
from spice_select.proxy.loading import load_model, load_tokenizer, model_source
from spice_select.trainers import SelectingSampler

ROWS, HELD_OUT, TRAINED, SPLIT_SEED = 160, 32, 32, 0
POOL = {"candidates": 40, "picks": 8, "update_every": 1}  # a choice every two optimizer steps of four rows


def split() -> tuple[datasets.Dataset, datasets.Dataset]:
    """Rows to train on and held-out rows, as prompt and completion."""
    path = Path(__file__).parent / "pool.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    copied = {row["of"] for row in rows}
    alone = [row for row in rows if row["kind"] == "plain" and row["id"] not in copied]
    held_out = random.Random(SPLIT_SEED).sample(alone, HELD_OUT)
    kept = {row["id"] for row in held_out}
    others = random.Random(SPLIT_SEED + 1).sample([row for row in rows if row["id"] not in kept], ROWS)
    return _as_prompts(others), _as_prompts(held_out)


def _as_prompts(rows: list[dict[str, Any]]) -> datasets.Dataset:
    return datasets.Dataset.from_list([
        {"prompt": row["messages"][:-1], "completion": row["messages"][-1:], "source": row["source"]} for row in rows
    ])  # fmt: skip


def trainer_of(rows: datasets.Dataset, held_out: datasets.Dataset, seed: int, output: Path) -> SFTTrainer:
    """A trainer of fresh adapters on the embedded model: one pass over `rows`, four a step."""
    source = model_source(RunConfig(dtype="float32"))
    torch.manual_seed(seed)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_model(source, "float32", torch.device("cpu")), config)
    args = SFTConfig(
        output_dir=str(output), num_train_epochs=1, per_device_train_batch_size=4, per_device_eval_batch_size=1,
        learning_rate=1e-3, warmup_steps=1, seed=seed, use_cpu=True, report_to="none", save_strategy="no",
        logging_strategy="no", disable_tqdm=True, gradient_checkpointing=False, bf16=False,
    )  # fmt: skip
    tokenizer = load_tokenizer(source)
    trainer = SFTTrainer(model=model, args=args, train_dataset=rows, eval_dataset=held_out, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each kind")
    parser.add_argument("--output", type=Path, default=Path("spice-run-training"), help="directory of the records")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    rows, held_out = split()
    before = trainer_of(rows, held_out, 0, options.output / "trainer").evaluate()["eval_loss"]
    print(f"held-out loss before training: {before:.4f} nats a token, mean over {HELD_OUT} rows\n")
    print("| seed | chosen while training | random rows | difference | seconds: chosen, random |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    differences: list[float] = []
    for seed in range(options.seeds):
        losses, seconds = [], []
        for chosen in (True, False):
            some = random.Random(seed).sample(range(ROWS), TRAINED)
            trainer = trainer_of(rows if chosen else rows.select(some), held_out, seed, options.output / "trainer")
            if chosen:
                place = options.output / f"seed-{seed}"
                SelectingSampler(trainer, output=place, rows=TRAINED, overwrite=True, **POOL)
            start = time.perf_counter()
            trainer.train()
            seconds.append(time.perf_counter() - start)
            losses.append(trainer.evaluate()["eval_loss"])
        differences.append(losses[0] - losses[1])
        took = ", ".join(f"{one:.0f}" for one in seconds)
        print(f"| {seed} | {losses[0]:.4f} | {losses[1]:.4f} | {differences[-1]:+.4f} | {took} |", flush=True)
    if options.seeds > 1:
        spread = statistics.stdev(differences)
        print(f"\nmean difference {statistics.mean(differences):+.4f}, standard deviation {spread:.4f} over seeds")
    print(f"why these rows: spice-select report {options.output / 'seed-0'}")


if __name__ == "__main__":
    main()
