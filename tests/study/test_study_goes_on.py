"""What a study that goes on keeps, makes anew and refuses; on a tiny model, in this process."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from oracles.runs import byte_tokenizer, chat_rows, write_jsonl
from spice_select import select
from spice_select.errors import ConfigError, OutputError
from spice_select.pool.examples import read_pool
from spice_select.progress import NoProgress
from spice_select.study.config import StudyConfig
from spice_select.study.forecast import forecast_study
from spice_select.study.remarks import overlap_remarks
from spice_select.study.run import run_study

pytest.importorskip("trl")
pytest.importorskip("matplotlib")

RANDOM = {"random": {"method": "random"}}


class Notes(NoProgress):
    """Keeps what is noted."""

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
    return json.loads((directory / "cells" / cell / "0.json").read_text(encoding="utf-8"))


def edit(path: Path, **changes) -> None:
    """Set keys of a JSON file; those set to None are taken out."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def test_a_forecast_counts_what_is_left(tiny_model, chat_pool, heldout, tmp_path) -> None:
    """Each cell and seed trains and is evaluated, the untrained model once; gradients are those of each proxy once."""
    cells = {**RANDOM, "spice": {}, "norm": {"method": "norm"}}
    study = study_of(tiny_model, chat_pool, heldout, cells=cells, seeds=3, gradient_seeds=2)
    directory = tmp_path / "study"
    pool = len(read_pool([str(chat_pool)], byte_tokenizer()).examples)
    new = forecast_study(study, directory, NoProgress())
    assert new.rows == 2 * pool + 9 * 4 + 10 * 6
    assert set(new.seconds) == {"gradients", "proxy training", "fine-tuning", "held-out loss"}
    run_study(study.model_copy(update={"seeds": 1}), directory, NoProgress())
    assert forecast_study(study, directory, NoProgress()).rows == pool + 6 * 4 + 6 * 6
    run_study(study, directory, NoProgress())
    done = forecast_study(study, directory, NoProgress())
    assert (done.rows, done.seconds, done.disk) == (0, {}, 0)

    another = study.model_copy(update={"max_length": 99})
    with pytest.raises(OutputError, match="holds a study that differs in max_length"):
        forecast_study(another, directory, NoProgress())


def test_a_cell_follows_the_other_when_that_is_made_anew(tiny_model, chat_pool, heldout, tmp_path) -> None:
    """Its tokens are those that the other has now, except where a result does not say what it followed."""
    follows = {"method": "random", "equal_tokens_to": "long"}

    def run(budget: int) -> list[str]:
        cells = {**RANDOM, "fair": follows, "old": follows, "long": {"method": "longest", "budget": budget}}
        notes = Notes()
        run_study(study_of(tiny_model, chat_pool, heldout, cells=cells), tmp_path, notes)
        return [line for line in notes.lines if "made anew" in line]

    assert run(3) == []
    before = result(tmp_path, "fair")
    assert before["target_tokens"] == result(tmp_path, "long")["trained_tokens"]
    edit(tmp_path / "cells" / "old" / "0.json", target_tokens=None)
    shutil.rmtree(tmp_path / "cells" / "long")
    assert len(run(8)) == 1
    fair, long = result(tmp_path, "fair"), result(tmp_path, "long")
    assert fair["target_tokens"] == long["trained_tokens"] > before["target_tokens"]
    longest = max(example.trained_tokens for example in read_pool([chat_pool], byte_tokenizer()).examples)
    assert abs(fair["trained_tokens"] - long["trained_tokens"]) <= longest / 2
    assert result(tmp_path, "old")["ids"] == before["ids"]
    assert run(8) == []

    edit(tmp_path / "cells" / "long" / "0.json", format_version=7)
    with pytest.raises(OutputError, match="format version 7"):
        run(8)


def test_one_study_has_one_model_and_one_set_of_rows(tiny_model, tmp_path) -> None:
    """Changed weights or renamed rows are refused; a study that did not record them goes on from its own copy."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    pool = write_jsonl(tmp_path / "pool.jsonl", [*chat_rows(30), {"id": "bad", "messages": []}])
    rows = [{"messages": row["messages"]} for row in chat_rows(6, seed=9)]
    heldout, out = write_jsonl(tmp_path / "held.jsonl", rows), tmp_path / "out"
    study = study_of(str(model), pool, heldout, skip_invalid=True)
    notes = Notes()
    run_study(study, out, notes)
    assert "1 rows of the pool cannot be used and are left out" in notes.lines
    lines = (out / "lines.json").read_text(encoding="utf-8")
    assert json.loads(lines, parse_constant=pytest.fail)[0]["proportional"] is None

    renamed = study.model_copy(update={"heldout": [str(heldout.rename(tmp_path / "other.jsonl"))]})
    with pytest.raises(OutputError, match="give the files their old names back"):
        run_study(renamed, out, NoProgress())
    (tmp_path / "other.jsonl").rename(heldout)

    weights = load_file(model / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    noise = {key: value + torch.randn(value.shape, generator=generator) for key, value in weights.items()}
    save_file(noise, model / "model.safetensors", {"format": "pt"})
    more = study.model_copy(update={"cells": {**RANDOM, "spice": {"scale": "unit"}}})
    with pytest.raises(OutputError, match="the weights behind its model's name"):
        run_study(more, out, NoProgress())
    edit(out / "study.json", weights=None, pool_rows=None, heldout_rows=None)
    run_study(more, out, NoProgress())
    options = {"budget": 4, "scale": "unit", "skip_invalid": True}
    kept, changed = (
        [chat.id for chat in result_of.chosen]
        for result_of in (select([pool], model=str(place), **options) for place in (out / "model", model))
    )
    assert result(out, "spice")["ids"] == kept
    assert kept != changed, "the two models must be told apart by their picks"


@pytest.mark.parametrize("budget", [58, "9999999tok", "0.1%"])
def test_a_budget_beyond_the_pool_is_found_before_anything_is_written(
    budget, tiny_model, chat_pool, heldout, tmp_path
) -> None:
    """The message names the cell."""
    study = study_of(tiny_model, chat_pool, heldout, cells={**RANDOM, "big": {"method": "longest", "budget": budget}})
    with pytest.raises(ConfigError, match="cell 'big': budget"):
        run_study(study, tmp_path / "out", NoProgress())
    assert not (tmp_path / "out").exists()


def test_held_out_prompts_that_are_in_the_pool_are_counted(chat_pool, tmp_path) -> None:
    """Whatever the answers; other prompts do not count."""
    pool = read_pool([chat_pool], byte_tokenizer())
    rows = chat_rows(57)[:3]
    for row in rows:
        row["messages"][1]["content"] = "another answer"
    new = [{"messages": [{"role": "user", "content": f"new {i}"}, rows[0]["messages"][1]]} for i in range(4)]
    shared = read_pool([write_jsonl(tmp_path / "shared.jsonl", [*rows, *new])], byte_tokenizer())
    (remark,) = overlap_remarks(pool, shared)
    assert remark.startswith("3 of 7 held-out rows")
    assert overlap_remarks(pool, read_pool([write_jsonl(tmp_path / "new.jsonl", new)], byte_tokenizer())) == []
