"""Each command started as users start it: what it needs is imported, and nothing but its own words is printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from oracles.forked import ENVIRONMENT, spice_anew
from oracles.runs import chat_rows, write_jsonl
from spice_select import compute_gradients, select
from spice_select.cli import COMMANDS

pytestmark = pytest.mark.slow

FAST = {"lora_rank": 2, "warmup_steps": 1}
STUDY = {"budget": "6", "seeds": 1, "recipe": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
         "cells": {"random": {"method": "random"}, "spice": {"scale": "unit"}}}  # fmt: skip
OWN = re.compile(
    r"reading the (pool|rows)|\d+ rows, .*|loading .*|timing .*|report: .*|.*fields that are not used.*|"
    r"\d+ (of \d+ )?held-out rows.*|"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    """A folder with a pool, two runs on it and its store."""
    folder = tmp_path_factory.mktemp("made")
    pool = write_jsonl(folder / "p.jsonl", chat_rows(40))
    write_jsonl(folder / "held.jsonl", chat_rows(10, seed=9))
    for name in ("one", "two"):
        select(pool, model=tiny_model, candidates=20, output=folder / name, **FAST)
    compute_gradients(pool, model=tiny_model, output=folder / "store", dim=16, **FAST)
    (folder / "study.yaml").write_text(yaml.safe_dump({"model": tiny_model, **STUDY}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "inspect p.jsonl --model MODEL",
        "check store",
        "audit one",
        "compare one two --output compared",
        "report one",
        "gradients p.jsonl --model MODEL --output s --dry-run",
    ],
)
def test_a_command_says_nothing_but_its_own(command, made, tiny_model):
    done = spice_anew(*command.replace("MODEL", tiny_model).split(), cwd=made)
    assert done.returncode == 0, done.stderr
    foreign = [line for line in done.stderr.splitlines() if not OWN.fullmatch(line)]
    assert foreign == [] and done.stdout, done.stderr


def test_the_installed_program_is_the_command_line():
    program = Path(sys.executable).with_name("spice-select")
    done = subprocess.run([program, "--help"], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout == spice_anew("--help").stdout


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_neither_torch_nor_transformers(command):
    """It would take seconds; the overview imports no command at all."""
    slow = {"torch", "transformers"} | (set() if command else {"pydantic", "yaml", "rich"})
    script = "import sys; from spice_select.cli import main; main(); print(*sys.modules, file=sys.stderr)"
    words = [sys.executable, "-c", script, *command.split(), "--help"]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"Usage: spice-select {command}".rstrip()), done.stdout
    assert not slow & set(done.stderr.split())
