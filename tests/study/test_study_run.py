"""Whole studies on a tiny model, through the real command line and trainer."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from oracles.forked import spice
from oracles.runs import byte_tokenizer, chat_rows, write_jsonl
from spice_select import select
from spice_select.errors import ConfigError
from spice_select.option_values import TARGETED, Method
from spice_select.pool.examples import read_pool
from spice_select.progress import NoProgress
from spice_select.study.config import StudyConfig, load_preset, load_study
from spice_select.study.presets import preset_text
from spice_select.study.run import run_study

pytest.importorskip("trl")
pytest.importorskip("matplotlib")

RECIPE = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3}
STUDIES = Path(__file__).resolve().parents[2] / "benchmarks" / "study"
CELLS = {"random": {"method": "random"}, "spice": {"scale": "unit"}, "all": {"full": True}}


@pytest.fixture(scope="module")
def heldout(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("heldout") / "held.jsonl", chat_rows(10, seed=9))


def write_study(path: Path, model: str, **changes) -> Path:
    content = {"model": model, "budget": "6", "seeds": 1, "recipe": RECIPE, "cells": CELLS, **changes}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def command(study: Path, pool: Path, heldout: Path, output: Path) -> list[str]:
    options = ["--pool", str(pool), "--heldout", str(heldout), "--output", str(output)]
    return ["study", str(study), *options]


def results(directory: Path) -> dict[str, dict]:
    """Choices by cell and seed, and losses of the fine-tuned models."""
    found = {
        str(path.relative_to(directory)): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted([*directory.glob("tuned/*/heldout.json"), *directory.glob("cells/*/cell.json")])
    }
    return {name.rpartition("-")[0] if name.startswith("cells") else name: content for name, content in found.items()}


def outcome(directory: Path) -> tuple[dict, str]:
    """The tables without what cells cost, which no two runs share."""
    found = json.loads((directory / "lines.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert [line["cell"] for line in found.pop("cost")] == [line["cell"] for line in found["cells"][1:]]
    return found, (directory / "table.md").read_text(encoding="utf-8").partition("Cost:")[0]


def test_an_interrupted_study_goes_on_to_the_same_results(tiny_model, chat_pool, heldout, tmp_path) -> None:
    """A study killed after its first cell and run again ends in the files of an undisturbed one; nothing is redone."""
    study = write_study(tmp_path / "study.yaml", tiny_model, equal_tokens=True)
    alone = spice(*command(study, chat_pool, heldout, tmp_path / "alone"))
    assert alone.returncode == 0, alone.stderr
    cells = ["untrained", "all", "random", "spice", "random-as-spice"]
    assert [line.split("|")[1].strip() for line in alone.stdout.splitlines() if line.startswith("| ")][2:7] == cells
    assert len(results(tmp_path / "alone")["cells/all-0"]["ids"]) == 57
    assert "random-as-spice" in (tmp_path / "alone" / "cost.svg").read_text(encoding="utf-8")

    process = subprocess.Popen(
        [sys.executable, "-m", "spice_select", *command(study, chat_pool, heldout, tmp_path / "killed")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    while not (measured := list((tmp_path / "killed").glob("tuned/*/heldout.json"))):
        assert process.poll() is None, process.stdout.read().decode()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (first,) = measured
    before = first.stat().st_mtime_ns
    done = spice(*command(study, chat_pool, heldout, tmp_path / "killed"))
    assert done.returncode == 0, done.stderr
    assert first.stat().st_mtime_ns == before
    assert results(tmp_path / "killed") == results(tmp_path / "alone")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "alone")
    for name in ("loss.svg", "tokens.svg"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()

    other = write_study(tmp_path / "other.yaml", tiny_model, budget="9")
    refused = spice(*command(other, chat_pool, heldout, tmp_path / "alone"))
    assert refused.returncode == 2
    assert "holds a study with other settings: budget" in refused.stderr


@pytest.mark.parametrize(
    "cell",
    [
        {},
        {"scale": "none", "fisher_alpha_mode": "absolute", "candidates": 20},
        {"scale": "unit", "directions": 4, "candidates": 20},
        {"scale": "sqrt-length", "directions": "all"},
        {"method": "norm", "candidates": 57},
        {"method": "dpp"},
        {"method": "random", "balance": "source"},
        {"method": "longest"},
        {"method": "ifd"},
        {"method": "selectit"},
        {"method": "fishersft"},
        {"candidates": 10, "update_every": 2, "warmup_steps": 1},
    ],
    ids=str,
)
def test_a_cell_picks_what_run_picks(cell, tiny_model, chat_pool, heldout, tmp_path) -> None:
    """Shared gradients, and one choice for all seeds where none changes it, are shortcuts: `select` picks the same."""
    study = StudyConfig(
        model=tiny_model, pool=[str(chat_pool)], heldout=[str(heldout)], budget="8", seeds=2, gradient_seeds=2,
        recipe={"epochs": 0.2}, cells={"random": {"method": "random"}, "cell": cell},
    )  # fmt: skip
    run_study(study, tmp_path, NoProgress())
    chosen = select([chat_pool], model=tiny_model, budget=8, seed=1, **cell).chosen
    found = results(tmp_path)
    assert found.get("cells/cell-1", found["cells/cell-0"])["ids"] == [chat.id for chat in chosen]


def test_equal_tokens_follow_another_cell_that_need_not_come_first(tiny_model, chat_pool, heldout, tmp_path) -> None:
    """As many trained tokens as rows allow, whichever of the two cells is listed first; equal rows are trained once."""
    cells = {"fair": {"method": "random", "equal_tokens_to": "long"}, "long": {"method": "longest"}}
    cells["same"] = {"method": "longest", "budget": 6}
    study = write_study(tmp_path / "study.yaml", tiny_model, cells=cells, baseline="fair")
    done = spice(*command(study, chat_pool, heldout, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    fair, long, same = (results(tmp_path / "out")[f"cells/{name}-0"] for name in ("fair", "long", "same"))
    assert len(fair["ids"]) > len(long["ids"])
    tokens = [example.trained_tokens for example in read_pool([chat_pool], byte_tokenizer()).examples]
    assert abs(fair["trained_tokens"] - long["trained_tokens"]) <= max(tokens) / 2
    assert same["ids"] == long["ids"]
    assert len(list((tmp_path / "out").glob("tuned/*/heldout.json"))) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cells": {"a": {}}}, "baseline 'random' is not among"),
        ({"cells": {"random": {"methd": "random"}}}, "unknown key 'methd'"),
        ({"cells": {"random": {"scale": "big"}}}, "scale"),
        ({"cells": {"random": {"stop_ratio": 0.5, "method": "norm"}}}, "stop_ratio belongs to"),
        ({"cells": {"random": {}, "b": {"equal_tokens_to": "c", "method": "random"}}}, "must name a cell"),
        ({"cells": {"random": {}, "b": {"equal_tokens_to": "random", "method": "dpp"}}}, "goes with"),
        ({"cells": {"random": {}, "a b": {}}}, "use letters"),
        ({"cells": {"random": {}}, "seeds": 0}, "seeds"),
        ({"cells": {"random": {}}, "recipe": {"epoch": 1}}, "recipe.epoch"),
        ({"cells": {"random": {}}, "recipe": {"seed": 3}}, "'seed' is set by the study"),
        (
            {"cells": {"random": {}}, "learning_rates": [1e-3], "recipe": {"learning_rate": 1e-3}},
            "leave one of the two",
        ),
        ({"cells": {"random": {}}, "learning_rates": [0]}, "learning_rates.0"),
        (
            {"cells": {"random": {}, "spice": {}, "random-as-spice": {"method": "longest"}}, "equal_tokens": True},
            "cell 'random-as-spice': equal_tokens adds a cell of this name",
        ),
        ({"cells": {"random": {}}, "equal_tokens": "yes"}, "equal_tokens"),
        ({"cells": {"random": {"target": True}}, "learning_rates": [1e-3]}, "needs a baseline without a target"),
        ({"cells": {"random": {}, "a": {"full": True, "budget": 5}}}, "leave the other keys out"),
        ({"cells": {"random": {}, "a": {"full": 1}}}, "full must be true"),
        ({"cells": {"random": {}, "untrained": {}}}, "'untrained': is the line of the model"),
        ({"cells": {"random": {"balance": "source"}}}, "balance goes with method random, not with spice"),
        (
            {"cells": {"random": {"equal_tokens_to": ["a"], "method": "random"}}, "equal_tokens": True},
            "must name a cell",
        ),
        ({"cells": {"random": [1]}, "equal_tokens": True}, "cells.random"),
        ({"cells": {"random": {}}, "recipe": {"max_length": 64}}, "'max_length' is set by the study"),
        ({"cells": {"random": {}, "b": {"equal_tokens_to": ["random"], "method": "random"}}}, "must name a cell"),
        ({"cells": {"random": {}, "b": {"equal_tokens_to": None, "method": "random"}}}, "must name a cell"),
        (
            {"cells": {"random": {}, "b": {"equal_tokens_to": "random", "method": "random", "budget": 5}}},
            "leave one of",
        ),
        ({"cells": {"random": {"method": "fisher", "penalty": 0.2}}}, "'penalty' changes nothing for method fisher"),
        (
            {"cells": {"random": {"method": "longest", "candidates": 7}}},
            "'candidates' changes nothing for method longest",
        ),
        ({"cells": {"random": {"method": "ifd", "warmup_steps": 1}}}, "'warmup_steps' changes nothing for method ifd"),
        ({"cells": {"random": {"method": "norm", "scale": "unit"}}}, "'scale' changes nothing for method norm"),
        ({"cells": {"random": {"budget": "many"}}}, "'many' is not a budget"),
        ({"cells": {"random": {}}, "budget": True}, "budget"),
        ({"seed": 3, "cells": {"a": 1}}, "unknown key 'seed'; known: .*seeds"),
        ({1: "a", "cells": {"random": {}}}, "key 1 is not text"),
        ({True: "a", "cells": {"random": {}}}, "key 1 is not text"),
        ({"cells": {"random": {}, 16: {}}}, "key cells.16 is not text"),
        ({"cells": {"random": {False: 1}}}, "key cells.random.0 is not text"),
        ({}, "cells"),
        ([1], "key: value"),
    ],
)
def test_mistakes_in_a_study_are_named(content, message, tmp_path) -> None:
    """The error names the key, in one line."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        load_study(path)
    assert len(str(error.value).splitlines()) == 1
    assert not str(error.value).endswith(("..", "?."))


def test_plain_values_are_read_as_meant(tmp_path) -> None:
    """A file may stand without a list, and a budget may be a number."""
    path = tmp_path / "study.yaml"
    path.write_text("{pool: a.jsonl, heldout: [b.jsonl], budget: 0.5, cells: {random: {budget: 100}}}")
    study = load_study(path)
    assert (study.pool, study.heldout) == (["a.jsonl"], ["b.jsonl"])
    assert study.run_config("random", 0).budget_rows(1000, 0) == 100
    assert study.model_copy(update={"cells": {"random": {}}}).run_config("random", 0).budget_rows(1000, 0) == 500


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_studies_of_the_project_load(path) -> None:
    """Every example has a valid baseline and valid options."""
    assert load_study(path).cells


def test_a_study_without_data_says_what_to_add(tiny_model, tmp_path) -> None:
    """Pool and held-out rows must be named."""
    study = write_study(tmp_path / "study.yaml", tiny_model)
    done = spice("study", study, "--output", tmp_path / "o")
    assert done.returncode == 2
    assert "names no pool" in done.stderr
    assert not (tmp_path / "o").exists()


def test_every_cell_gets_random_rows_at_equal_tokens() -> None:
    """Unless it has them already, or is plain random rows itself, or all rows."""
    cells = {"random": {"method": "random"}, "a": {}, "b": {"scale": "unit"}, "all": {"full": True}}
    cells |= {
        "balanced": {"method": "random", "balance": "source"},
        "own": {"method": "random", "equal_tokens_to": "b"},
    }
    study = StudyConfig(cells=cells, equal_tokens=True)
    assert [*study.cells] == ["random", "a", "random-as-a", "b", "all", "balanced", "random-as-balanced", "own"]
    assert study.cells["random-as-a"] == {"method": "random", "equal_tokens_to": "a"}


def test_the_learning_rate_is_the_best_one_for_the_baseline(tiny_model, chat_pool, heldout, tmp_path) -> None:
    """Each is tried at seed 0, and the best one serves all seeds and cells; one may diverge."""
    study = StudyConfig(
        model=tiny_model, pool=[str(chat_pool)], heldout=[str(heldout)], budget="8", seeds=2,
        recipe={"epochs": 1, "batch_size": 4}, learning_rates=[1e-9, 1e-2, 1e30],
        cells={"random": {"method": "random"}},
    )  # fmt: skip
    text = run_study(study, tmp_path, NoProgress())
    found = json.loads((tmp_path / "lines.json").read_text(encoding="utf-8"))
    untrained, random = (line["macro"]["mean"] for line in found["cells"])
    poor, good = found["learning_rates"]["1e-09"], found["learning_rates"]["0.01"]
    assert poor == pytest.approx(untrained, abs=1e-4)
    assert max(random, good) < poor - 1e-4
    assert f"for random at seed 0, of 1e-09 ({poor:.4f}), 0.01 ({good:.4f}), 1e+30 (diverged)." in text
    rates = {
        path.parents[1].name: json.loads(path.read_text()) for path in tmp_path.glob("tuned/*/checkpoint/finetune.json")
    }
    assert sorted((name[0], record["recipe"]["learning_rate"]) for name, record in rates.items()) == [
        ("0", 1e-9), ("0", 1e-2), ("0", 1e30), ("1", 1e-2),
    ]  # fmt: skip


def test_the_preset_has_a_cell_of_every_method() -> None:
    """Cells for a target are there where one is given."""
    plain, aimed = load_preset("paper", {"seeds": 2}), load_preset("paper", {"targets": {"t": ["t.jsonl"]}})
    assert plain.seeds == 2
    for study, methods in ((plain, {*Method.__args__} - {*TARGETED}), (aimed, {*Method.__args__})):
        assert {study.run_config(cell, 0).method for cell in study.cells} == methods
    assert [*aimed.cells][: len(plain.cells)] == [*plain.cells]


def test_a_preset_stands_in_place_of_a_file(tmp_path) -> None:
    """One of the two is named; the preset can be printed, and then be changed."""
    for arguments in ([], ["study.yaml", "--preset", "paper"]):
        done = spice("study", *arguments, "--output", tmp_path / "o")
        assert done.returncode == 2
        assert "name either a STUDY.YAML or a --preset" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    printed = spice("study", "--print-preset", "paper")
    assert printed.stdout == preset_text("paper")
    (tmp_path / "study.yaml").write_text(printed.stdout)
    assert load_study(tmp_path / "study.yaml", {"targets": {"t": "t.jsonl"}}) == load_preset(
        "paper", {"targets": {"t": "t.jsonl"}}
    )
