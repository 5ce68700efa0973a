"""Links in a directory that somebody else may have made: nothing behind them is written, removed or replaced."""

import json
import shutil
from pathlib import Path

import pytest

from oracles.commands import refusal, snapshot
from spice_select import select
from spice_select.errors import OutputError
from spice_select.files.directory import clear
from spice_select.training.checkpoint import READY, finish_move

RUN = ["run", "p.jsonl", "--model", "MODEL", "--candidates", "20", "--lora-rank", "2", "--warmup-steps", "1"]
GRADIENTS = ["gradients", "p.jsonl", "--model", "MODEL", "--dim", "16", "--lora-rank", "2", "--warmup-steps", "1"]
STUDY = ["study", "study.yaml", "--output", "study"]

LINKED = {
    "run --overwrite, checkpoint": ("run/checkpoint", [*RUN, "--output", "run", "--overwrite"]),
    "run --overwrite, figures": ("run/figures", [*RUN, "--output", "run", "--overwrite"]),
    "run --resume, checkpoint": ("run/checkpoint", [*RUN, "--output", "run", "--resume"]),
    "pick --overwrite, figures": ("run/figures", ["pick", "store", "--output", "run", "--overwrite"]),
    "report, figures": ("run/figures", ["report", "run"]),
    "audit --answers, checkpoint": ("run/checkpoint", ["audit", "run", "--answers"]),
    "gradients, claims": ("store/.claims", [*GRADIENTS, "--output", "store"]),
    "gradients, shards": ("store/shards", [*GRADIENTS, "--output", "store"]),
    "study, cells": ("study/cells", STUDY),
    "study, a cell": ("study/cells/random-0", STUDY),
    "study, fine-tuned": ("study/tuned", STUDY),
}


def move_behind_a_link(path: Path) -> None:
    """Move `path` elsewhere, and put a link to it in its place."""
    elsewhere = path.parent.parent / f"elsewhere-{path.name}"
    path.mkdir(parents=True, exist_ok=True)
    shutil.move(path, elsewhere)
    (elsewhere / "gain.svg").write_text("mine")
    path.symlink_to(elsewhere)


def begin_study(place: Path, model: str) -> None:
    """A study that lacks only its results."""
    from spice_select.files.records import write_json
    from spice_select.progress import NoProgress
    from spice_select.study.config import StudyConfig
    from spice_select.study.directory import identity_of
    from spice_select.study.run import read_study

    about = {"model": model, "pool": "p.jsonl", "heldout": "p.jsonl", "budget": 4, "seeds": 1}
    about |= {"cells": {"random": {"method": "random"}}}
    (place / "study.yaml").write_text(json.dumps(about))
    study = read_study(StudyConfig.model_validate(about), place / "study", NoProgress())
    (place / "study").mkdir()
    settings = identity_of(study.config, study.prepared, study.heldout, study.targets)
    write_json(place / "study" / "study.json", settings)


@pytest.mark.parametrize("name", LINKED)
def test_a_command_refuses_links_in_its_output(name, place, tiny_model, monkeypatch, capsys):
    linked, arguments = LINKED[name]
    monkeypatch.chdir(place)
    if arguments is STUDY:
        begin_study(place, tiny_model)
    move_behind_a_link(place / linked)
    arguments = [tiny_model if argument == "MODEL" else argument for argument in arguments]
    message = refusal(place, arguments, monkeypatch, capsys)
    assert f"{linked}: is a link" in message


@pytest.mark.parametrize("name", ["checkpoint", "figures"])
def test_what_lies_behind_a_link_is_never_removed(name, place):
    """`clear` refuses before it removes anything."""
    move_behind_a_link(place / "run" / name)
    before = snapshot(place)
    with pytest.raises(OutputError, match="is a link"):
        clear(place / "run")
    assert snapshot(place) == before


def test_a_link_in_place_of_a_result_is_replaced_not_followed(place, tiny_model):
    target = place / "foreign" / "thesis.txt"
    (place / "run" / "selected.jsonl").unlink()
    (place / "run" / "selected.jsonl").symlink_to(target)
    options = {"model": tiny_model, "lora_rank": 2, "warmup_steps": 1}
    select(place / "p.jsonl", candidates=20, output=place / "run", existing="overwrite", **options)
    assert target.read_text() == "years of work"
    assert not (place / "run" / "selected.jsonl").is_symlink()


def test_a_resumed_run_refuses_a_store_behind_a_link(place, tiny_model):
    options = {"model": tiny_model, "lora_rank": 2, "warmup_steps": 1, "dim": 16, "candidates": "all"}
    select(place / "p.jsonl", output=place / "all", **options)
    (place / "all" / "manifest.json").unlink()
    (place / "all" / "checkpoint" / "pool-000000.json").unlink()
    move_behind_a_link(place / "all" / "checkpoint" / "gradients")
    before = snapshot(place / "all" / "elsewhere-gradients")
    with pytest.raises(OutputError, match="gradients: is a link"):
        select(place / "p.jsonl", output=place / "all", existing="resume", **options)
    assert snapshot(place / "all" / "elsewhere-gradients") == before


def test_a_link_is_no_checkpoint_that_waits_to_be_moved_in(place):
    """The remains of a killed `finetune` must be a folder, not a link."""
    finished = place / "good"
    finished.mkdir()
    record = {"format": "spice-select-finetune", "version": 1, "files": ["finetune.json"]}
    (finished / "finetune.json").write_text(json.dumps(record))
    (place / "out").mkdir()
    (place / "out" / READY).symlink_to(finished)
    finish_move(place / "out")
    assert (finished / "finetune.json").exists() and not (place / "out" / "finetune.json").exists()
    (place / "out" / READY).unlink()
    finished.rename(place / "out" / READY)
    finish_move(place / "out")
    assert (place / "out" / "finetune.json").exists()
