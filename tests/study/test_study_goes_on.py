"""What a continued study keeps, computes again and refuses; on a tiny model, in this process."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from oracles.runs import byte_tokenizer, chat_rows, write_jsonl
from spice_select.errors import ConfigError, OutputError
from spice_select.pool.examples import read_pool
from spice_select.progress import NoProgress
from spice_select.study.config import StudyConfig
from spice_select.study.run import run_study
from spice_select.study.table import overlap_remarks

pytest.importorskip("trl")
pytest.importorskip("matplotlib")

RANDOM = {"random": {"method": "random"}}


class Notes(NoProgress):
    """Collects notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def heldout(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("heldout") / "held.jsonl", chat_rows(6, seed=9))


def study_of(model: str, pool: Path, heldout: Path, **changes) -> StudyConfig:
    values = {"model": model, "pool": str(pool), "heldout": str(heldout), "budget": 4, "seeds": 1, "cells": RANDOM}
    recipe = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3}
    return StudyConfig.model_validate({**values, "recipe": recipe, **changes})


def result(directory: Path, cell: str) -> dict:
    (path,) = directory.glob(f"cells/{cell}-0-*/cell.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_cell_whose_options_change_is_made_anew_and_so_is_what_follows_it(
    tiny_model, chat_pool, heldout, tmp_path
) -> None:
    """No measurement is lost: with the old options back, nothing is computed again."""

    def run(budget: int) -> tuple[dict, dict, list[str]]:
        follows = {"method": "random", "equal_tokens_to": "long"}
        cells = {**RANDOM, "fair": follows, "long": {"method": "longest", "budget": budget}}
        notes, before = Notes(), set(tmp_path.glob("cells/*"))
        run_study(study_of(tiny_model, chat_pool, heldout, cells=cells), tmp_path, notes)
        new = sorted(path.name.split("-")[0] for path in set(tmp_path.glob("cells/*")) - before)
        records = {path.parent: json.loads(path.read_text()) for path in tmp_path.glob("cells/*/cell.json")}
        (long,) = [record for record in records.values() if record["options"].get("budget") == budget]
        fair = {folder.name: record for folder, record in records.items() if folder.name.startswith("fair")}
        return fair, long, new

    _, short, new = run(3)
    assert new == ["fair", "long", "random"]
    fair, long, new = run(8)
    assert new == ["fair", "long"]
    assert long["trained_tokens"] > short["trained_tokens"]
    longest = max(example.trained_tokens for example in read_pool([chat_pool], byte_tokenizer()).examples)
    for followed in (short, long):
        gaps = [abs(record["trained_tokens"] - followed["trained_tokens"]) for record in fair.values()]
        assert min(gaps) <= longest / 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("tuned/*/heldout.json")}
    assert run(3)[2] == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("tuned/*/heldout.json")} == before


def test_a_study_of_an_earlier_version_goes_on(tiny_model, chat_pool, heldout, tmp_path) -> None:
    """One that has seconds where others have costs: nothing is made again, and what was not measured stays empty."""
    cells = {**RANDOM, "spice": {"scale": "unit"}}
    study = study_of(tiny_model, chat_pool, heldout, cells=cells)
    run_study(study, tmp_path, NoProgress())
    assert sorted(json.loads((tmp_path / "study.json").read_text())) == [
        "budget", "columns", "dtype", "format", "format_version", "gradient_seeds", "heldout", "max_length", "model",
        "pool", "recipe", "rows_per_source", "target_rows", "targets", "weights",
    ]  # fmt: skip
    for path in [*tmp_path.glob("*.cost.json"), *tmp_path.glob("cells/*/cost.json")]:
        path.rename(path.with_name(path.name.replace("cost.json", "seconds.json"))).write_text("2.5")
    (tmp_path / "lines.json").unlink()
    made = [path for path in tmp_path.rglob("*.json") if ".claims" not in path.parts]
    before = {path: path.stat().st_mtime_ns for path in made}
    more = study.model_copy(update={"cells": {**cells, "sqrt": {"scale": "sqrt-length"}}})
    text = run_study(more, tmp_path, NoProgress())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    table = json.loads((tmp_path / "lines.json").read_text())["cost"]
    for line in table[:2]:
        assert line["choice"] == {"seconds": 2.5, **dict.fromkeys(["forward", "backward", "memory", "gpu_memory"])}
    assert table[2]["choice"]["seconds"] > 2.5 and table[2]["choice"]["backward"] is None
    assert "| spice | 2.5 |  |  |  |" in text
    next(tmp_path.glob("cells/spice-*/seconds.json")).unlink()
    assert "| spice |  |  |  |  |" in run_study(more, tmp_path, NoProgress())


def test_a_damaged_record_is_named(tiny_model, chat_pool, heldout, tmp_path) -> None:
    """The record of a cell, and the file of losses."""
    study = study_of(tiny_model, chat_pool, heldout)
    run_study(study, tmp_path, NoProgress())
    for pattern, content in (("tuned/*/heldout.json", '{"a": "x"}'), ("cells/*/cell.json", "{}")):
        (path,) = tmp_path.glob(pattern)
        path.write_text(content)
        with pytest.raises(OutputError, match=rf"(?s){path.name}: is damaged .*Delete it and run the study again"):
            run_study(study, tmp_path, NoProgress())
        path.unlink()
        run_study(study, tmp_path, NoProgress())


def test_one_study_has_one_model_and_one_set_of_rows(tiny_model, tmp_path) -> None:
    """Changed weights or renamed rows are refused."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    pool = write_jsonl(tmp_path / "pool.jsonl", [*chat_rows(30), {"id": "bad", "messages": []}])
    rows = [{"messages": row["messages"]} for row in chat_rows(6, seed=9)]
    heldout, out = write_jsonl(tmp_path / "held.jsonl", rows), tmp_path / "out"
    study = study_of(str(model), pool, heldout, skip_invalid=True)
    notes = Notes()
    run_study(study, out, notes)
    assert any(line.startswith("rows left out because they cannot be used: 1, ") for line in notes.lines)
    lines = (out / "lines.json").read_text(encoding="utf-8")
    assert json.loads(lines, parse_constant=pytest.fail)["cells"][0]["proportional"] is None

    renamed = study.model_copy(update={"heldout": [str(heldout.rename(tmp_path / "other.jsonl"))]})
    with pytest.raises(OutputError, match="give a renamed file its old name back"):
        run_study(renamed, out, NoProgress())
    (tmp_path / "other.jsonl").rename(heldout)

    weights = load_file(model / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    noise = {key: value + torch.randn(value.shape, generator=generator) for key, value in weights.items()}
    save_file(noise, model / "model.safetensors", {"format": "pt"})
    more = study.model_copy(update={"cells": {**RANDOM, "spice": {"scale": "unit"}}})
    with pytest.raises(OutputError, match="weights"):
        run_study(more, out, NoProgress())


@pytest.mark.parametrize("budget", [58, "9999999tok", "0.1%"])
def test_a_budget_beyond_the_pool_is_found_before_anything_is_written(
    budget, tiny_model, chat_pool, heldout, tmp_path
) -> None:
    """The error names the cell."""
    study = study_of(tiny_model, chat_pool, heldout, cells={**RANDOM, "big": {"method": "longest", "budget": budget}})
    with pytest.raises(ConfigError, match="cell 'big': budget"):
        run_study(study, tmp_path / "out", NoProgress())
    assert not (tmp_path / "out").exists()


def test_held_out_prompts_that_are_in_the_pool_are_counted(chat_pool, tmp_path) -> None:
    """Prompts alone are compared, without their answers."""
    pool = read_pool([chat_pool], byte_tokenizer())
    rows = chat_rows(57)[:3]
    for row in rows:
        row["messages"][1]["content"] = "another answer"
    new = [{"messages": [{"role": "user", "content": f"new {i}"}, rows[0]["messages"][1]]} for i in range(4)]
    shared = read_pool([write_jsonl(tmp_path / "shared.jsonl", [*rows, *new])], byte_tokenizer())
    (remark,) = overlap_remarks(pool, shared)
    assert remark.startswith("3 of 7 held-out rows")
    assert overlap_remarks(pool, read_pool([write_jsonl(tmp_path / "new.jsonl", new)], byte_tokenizer())) == []
