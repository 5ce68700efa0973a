"""A run pushed to a hub on this machine: what arrives, what it says, and what is refused before anything changes."""

import json
import shutil
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import yaml

from oracles.forked import ENVIRONMENT, spice
from oracles.local_hub import TOKEN, local_hub
from oracles.runs import chat_rows, read_jsonl, write_jsonl

FEW = ["--lora-rank", "2", "--warmup-steps", "1", "--candidates", "20"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    """A hub with two datasets, and a run on one of them and a file; some rows cannot be used."""
    folder = tmp_path_factory.mktemp("push")
    (folder / "data").mkdir()
    write_jsonl(folder / "data" / "train.jsonl", [{**row, "source": "a | b"} for row in chat_rows(30)])
    (folder / "data" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\nRows.\n")
    write_jsonl(folder / "own.jsonl", chat_rows(20, seed=3))
    with local_hub() as hub:
        hub.repositories["datasets", "owner/rows"] = folder / "data"
        own = {**ENVIRONMENT, **hub.variables(folder / "home"), "HF_TOKEN": TOKEN}
        shares = ["--budget", "20%", "--eval-share", "20%"]
        done = spice("run", "owner/rows", folder / "own.jsonl", "--model", tiny_model, *FEW, *shares,
                     "--output", folder / "run", cwd=folder, env=own)  # fmt: skip
        assert done.returncode == 0, done.stderr

        def push(*arguments, code=0, **variables):
            found = spice("push", *arguments, cwd=folder, env={**own, **variables})
            assert found.returncode == code and "Traceback" not in found.stderr, found.stderr
            told = found.stderr[found.stderr.rindex("spice-select:") :] if code else found.stdout
            assert len(told.splitlines()) <= 3
            return told

        yield hub, folder, push


def test_what_is_pushed_arrives_and_loads(made, tmp_path):
    """Byte for byte, in one commit, in a private repository whose card the library reads."""
    hub, folder, push = made
    told = push("run", "me/chosen")
    assert hub.head("me/chosen") in told and "me/chosen" in hub.private
    arrived = hub.repositories["datasets", "me/chosen"]
    names = {"train.parquet", "eval.parquet", "selected.jsonl", "scores.parquet"}
    assert {path.name for path in arrived.iterdir()} == {*names, "README.md", ".gitattributes"}
    assert all((arrived / name).read_bytes() == (folder / "run" / name).read_bytes() for name in names)
    assert len(hub.commits["me/chosen"]) == 1
    read = shutil.copytree(arrived, tmp_path / "clone")
    loaded = datasets.load_dataset(str(read), cache_dir=str(tmp_path / "cache"))
    for split, name in (("train", "train.parquet"), ("validation", "eval.parquet")):
        assert loaded[split]["id"][:] == pq.read_table(read / name)["id"].to_pylist()
    scores = datasets.load_dataset(str(read), "scores", split="train", cache_dir=str(tmp_path / "cache"))
    kept = len(loaded["train"]) + len(loaded["validation"])
    assert sum(scores["picked"][:]) == kept == len(read_jsonl(read / "selected.jsonl"))


def test_what_the_card_says(made):
    hub, folder, push = made
    push("run", "me/card", "--public")
    assert "me/card" not in hub.private
    _, front, text = (hub.repositories["datasets", "me/card"] / "README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(front)
    assert "license" not in about and about["source_datasets"] == ["owner/rows"]
    totals = json.loads((folder / "run" / "manifest.json").read_text())["totals"]
    for words in (
        f"{totals['kept']} of {totals['rows']} instruction rows", "method\n`spice`", "budget of 20%",
        f"Certificate: at least {100 * totals['quality']['certificate']:.1f} %", "| owner/rows | 30 | cc-by-4.0 |",
        "| own | 20 | not known |", "| a \\| b | 30 |",
    ):  # fmt: skip
        assert words in text, words
    assert str(folder) not in text and str(Path.home()) not in text


def test_a_repository_that_holds_files_is_not_changed_unasked(made):
    hub, folder, push = made
    push("run", "me/again")
    place = hub.repositories["datasets", "me/again"]
    (place / "train.parquet").write_bytes(b"theirs")
    (place / "notes.md").write_text("mine")
    before = len(hub.commits["me/again"])
    assert "--overwrite" in push("run", "me/again", code=2)
    assert len(hub.commits["me/again"]) == before and (place / "train.parquet").read_bytes() == b"theirs"
    shutil.copytree(folder / "run", folder / "again")
    (folder / "again" / "eval.parquet").unlink()
    push("again", "me/again", "--overwrite")
    assert (place / "train.parquet").read_bytes() == (folder / "run" / "train.parquet").read_bytes()
    assert (place / "notes.md").read_text() == "mine" and not (place / "eval.parquet").exists()
    assert "private" in push("run", "me/again", "--overwrite", "--public", code=2)
    hub.private.remove("me/again")
    assert "is public; give --public" in push("run", "me/again", "--overwrite", code=2)
    assert len(hub.commits["me/again"]) == before + 1


@pytest.mark.parametrize(
    ("arguments", "variables", "clue"),
    [
        (["data", "me/x"], {}, "no finished run"),
        (["absent", "me/x"], {}, "no finished run"),
        (["run", "x"], {}, "owner/name"),
        (["run", "me/--x..y"], {}, "not the name of a repository"),
        (["run", "me/x"], {"HF_TOKEN": ""}, "hf auth login"),
        (["run", "me/x"], {"HF_TOKEN": "hf_other"}, "hf auth login"),
        (["run", "they/x"], {}, "another owner"),
        (["run", "me/x"], {"HF_HUB_OFFLINE": "1"}, "cannot be reached"),
        (["run", "me/x"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
)
def test_what_cannot_be_pushed(made, arguments, variables, clue):
    hub, _, push = made
    assert clue in push(*arguments, code=2, **variables)
    assert ("datasets", "me/x") not in hub.repositories
