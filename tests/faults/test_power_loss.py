"""A power cut can undo names and contents that were not flushed: commands must write in an order that survives it.

A disk may lose, or put down in any order, whatever was not flushed. So a file must be flushed before it takes its final
name, its folder after that, and the mark of completeness must be seen to be gone before what it stands for goes.
The calls are those of real commands, listed as they are made.
"""

import os
import re
import sys
from pathlib import Path

import pytest

from oracles.runs import chat_rows, write_jsonl
from spice_select import Recipe, compute_gradients, finetune, pick, select
from spice_select.progress import NoProgress
from spice_select.report.build import build, write
from spice_select.study.config import StudyConfig
from spice_select.study.run import run_study

FINAL = re.compile(r"(?!\.spice-)")
MARKS = ("manifest.json", "finetune.json")


class Journal:
    """Renames, removals, opened files and flushes below a folder, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.entries, self.on = str(folder), [], True

    def audit(self, event: str, arguments: tuple) -> None:
        if not self.on or event not in ("os.rename", "os.remove", "open"):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        paths = [os.fsdecode(path) for path in arguments[:2] if isinstance(path, str | bytes | os.PathLike)]
        if event != "os.rename":
            paths = paths[:1]
        if any(path.startswith(self.folder) for path in paths):
            self.entries.append((event, *paths))

    def flushed(self, descriptor: int) -> None:
        self.entries.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))


@pytest.fixture
def journal(tmp_path, monkeypatch):
    found, flush = Journal(tmp_path), os.fsync

    def fsync(descriptor):
        flush(descriptor)
        found.flushed(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    sys.addaudithook(found.audit)
    yield found
    found.on = False  # a hook cannot be taken off


def check(entries):
    """Check the law over a list of calls by one process."""
    unflushed, names, marks = {}, set(), set()
    renamed = 0
    for number, (event, *paths) in enumerate(entries):
        if event == "open":
            temporary = any(part.startswith(".spice-") for part in Path(paths[0]).parts)
            assert temporary or "/.claims/" in paths[0], f"{paths[0]} is written under its final name"
            unflushed[paths[0]] = number
        elif event == "fsync":
            unflushed.pop(paths[0], None)
            names.discard(paths[0])
            marks.discard(paths[0])
        elif event == "os.rename":
            content = [path for path in unflushed if f"{path}/".startswith(f"{paths[0]}/")]
            assert not content, f"{paths[1]} took its name before its content was on the disk"
            names.add(str(Path(paths[1]).parent))
            renamed += 1
        else:
            unflushed.pop(paths[0], None)
            if not FINAL.match(Path(paths[0]).name):
                continue
            assert not marks, f"{paths[0]} goes while a power cut could bring {MARKS} back"
            if Path(paths[0]).name in MARKS:
                marks.add(str(Path(paths[0]).parent))
    assert not names, f"names in {names} may be lost"
    return renamed


@pytest.mark.slow
def test_every_command_flushes_before_it_relies(journal, tmp_path, tiny_model):
    pool = write_jsonl(tmp_path / "p.jsonl", chat_rows(60))
    journal.entries.clear()
    options = {"model": tiny_model, "candidates": 20, "update_every": 1, "lora_rank": 2, "budget": "20%"}
    select(pool, output=tmp_path / "r", **options)
    select(pool, output=tmp_path / "r", existing="overwrite", **options)
    compute_gradients(pool, model=tiny_model, output=tmp_path / "s", dim=64, lora_rank=2, warmup_steps=1)
    (tmp_path / "s" / "rows.parquet").unlink()
    compute_gradients(pool, model=tiny_model, output=tmp_path / "s", dim=64, lora_rank=2, warmup_steps=1)
    for existing in ("refuse", "overwrite"):
        pick(tmp_path / "s", budget="5", output=tmp_path / "c", existing=existing)
    for existing in ("refuse", "overwrite"):
        finetune(pool, model=tiny_model, output=tmp_path / "t", existing=existing, recipe=Recipe(epochs=0.2))
    write(build(tmp_path / "r", NoProgress()), tmp_path / "r")
    cells = {"spice": {"candidates": 20}, "random": {"method": "random"}}
    about = {"model": tiny_model, "pool": str(pool), "heldout": str(pool), "budget": 4, "seeds": 1, "cells": cells}
    run_study(StudyConfig.model_validate({**about, "recipe": {"epochs": 1}}), tmp_path / "study", NoProgress())
    own = [entry for entry in journal.entries if "/s/rows.parquet" not in entry[1] or entry[0] != "os.remove"]
    assert check(own) > 50


def test_the_law_finds_what_it_forbids(tmp_path):
    folder = str(tmp_path)
    for wrong in (
        [("open", f"{folder}/selected.jsonl")],
        [("open", f"{folder}/.spice-1.tmp"), ("os.rename", f"{folder}/.spice-1.tmp", f"{folder}/a"), ("fsync", folder)],
        [("os.rename", f"{folder}/.spice-1.tmp", f"{folder}/a")],
        [("open", f"{folder}/.spice-1.tmp/weights"), ("os.rename", f"{folder}/.spice-1.tmp", f"{folder}/model")],
        [("os.remove", f"{folder}/manifest.json"), ("os.remove", f"{folder}/scores.parquet")],
    ):
        with pytest.raises(AssertionError):
            check(wrong)
