"""The commands that `kills.py` kills: how each begins, how it goes on, and what lies in its output before."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from oracles.runs import chat_rows, save_tiny_model, write_jsonl

PROXY = ["--lora-rank", "2", "--warmup-steps", "1"]
POOLS = ["--candidates", "10", "--update-every", "2", "--update-batch-size", "4", "--lora-rank", "2", "--budget", "20%"]


def gone(output: Path) -> None:
    """Take away what a command left."""
    shutil.rmtree(output, ignore_errors=True)


@dataclass
class Command:
    """A command, how it goes on after a kill, how its output is before it, and what it must leave."""

    name: str
    first: list[str]
    again: Callable[[Path], list[str]]
    output: Path
    prepare: Callable[[Path], None] = gone
    seconds: float = 0.0
    left: dict[str, bytes] = field(default_factory=dict)


def commands(folder: Path) -> list[Command]:
    """The commands under test."""
    model = str(save_tiny_model(folder / "model"))
    few = str(write_jsonl(folder / "few.jsonl", chat_rows(57)))
    many = str(write_jsonl(folder / "many.jsonl", chat_rows(700)))
    store = str(folder / "store")

    def run(name: str, options: list[str]) -> Command:
        output = folder / name
        first = ["run", few, "--model", model, "--output", str(output), *options]

        def again(place: Path) -> list[str]:
            return [*first, "--resume"] if (place / "checkpoint" / "identity.json").exists() else first

        return Command(name, first, again, output)

    def finetune(name: str, prepare: Callable[[Path], None]) -> Command:
        output = folder / name
        first = ["finetune", few, "--model", model, "--output", str(output), "--epochs", "1", "--lora-rank", "2"]
        return Command(name, first, lambda place: [*first, "--overwrite"] if place.exists() else first, output, prepare)

    def earlier(output: Path) -> None:
        gone(output)
        shutil.copytree(folder / "earlier", output)

    gradients = ["gradients", many, "--model", model, "--output", store, "--dim", "64", *PROXY, "--batch-tokens", "512"]
    pick = ["pick", store, "--budget", "20", "--output", str(folder / "pick")]
    study = ["study", str(write_study(folder, model, few)), "--output", str(folder / "study")]
    return [
        run("run", POOLS),
        run("run-all", ["--candidates", "all", "--dim", "64", *PROXY, "--budget", "20%"]),
        Command("gradients", gradients, lambda _: gradients, folder / "store"),
        Command("pick", pick, lambda place: [*pick, "--overwrite"] if place.exists() else pick, folder / "pick"),
        finetune("finetune", gone),
        finetune("finetune-over", earlier),
        Command("study", study, lambda _: study, folder / "study"),
    ]  # fmt: skip


def write_study(folder: Path, model: str, pool: str) -> Path:
    """A study of three cells with gradients, one that follows another, and fine-tunings."""
    cells = {"spice": {"candidates": 20}, "random": {"method": "random"}}
    cells["like-spice"] = {"method": "random", "equal_tokens_to": "spice"}
    heldout = str(write_jsonl(folder / "heldout.jsonl", chat_rows(6, seed=9)))
    recipe = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "lora_rank": 2}
    about = {
        "model": model,
        "pool": pool,
        "heldout": heldout,
        "budget": 6,
        "seeds": 1,
        "cells": cells,
        "recipe": recipe,
    }
    path = folder / "study.yaml"
    path.write_text(json.dumps(about | {"cells": cells, "recipe": recipe}), encoding="utf-8")  # JSON is YAML
    return path
