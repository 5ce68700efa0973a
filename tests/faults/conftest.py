"""What several of these tests damage: a run and a store that are finished, made once and copied for each test."""

import shutil
from pathlib import Path

import pytest

from oracles.runs import chat_rows, write_jsonl
from spice_select import compute_gradients, select


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_model) -> Path:
    """A folder with a pool, a finished run, and a gradient store."""
    folder = tmp_path_factory.mktemp("finished")
    pool = write_jsonl(folder / "p.jsonl", chat_rows(40))
    options = {"model": tiny_model, "lora_rank": 2, "warmup_steps": 1}
    select(pool, candidates=20, output=folder / "run", **options)
    compute_gradients(pool, output=folder / "store", dim=16, **options)
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.txt").write_text("years of work")
    return folder


@pytest.fixture
def place(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "place"))
