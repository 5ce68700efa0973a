"""`--format` and `--column` for one file among several: what is understood, kept with the run, and refused."""

import json

import pytest
import yaml

from oracles.forked import spice
from oracles.runs import read_jsonl, write_jsonl
from spice_select.cli.options import given_options
from spice_select.config import RunConfig, resolve
from spice_select.config_file import dump_yaml, load_yaml
from spice_select.errors import ConfigError
from spice_select.file_options import FileOptions

GIVEN = {
    "all files": ((["alpaca"], ["prompt=q"]), {"format": "alpaca", "columns": {"prompt": "q"}}),
    "one file": ((["p.json=alpaca"], []), {"per_file": {"p.json": FileOptions("alpaca")}}),
    "both": (
        (["alpaca", "p.json=messages"], []),
        {"format": "alpaca", "per_file": {"p.json": FileOptions("messages")}},
    ),
    "a column of one file": (
        ([], ["a/p.json:prompt=q", "prompt=x"]),
        {"columns": {"prompt": "x"}, "per_file": {"a/p.json": FileOptions(None, {"prompt": "q"})}},
    ),
    "signs in names": (
        (["https://h/a?b=c:1=alpaca"], ["own/set:main:train:prompt=a=b:c"]),
        {
            "per_file": {
                "https://h/a?b=c:1": FileOptions("alpaca"),
                "own/set:main:train": FileOptions(None, {"prompt": "a=b:c"}),
            }
        },
    ),
}


@pytest.mark.parametrize(("written", "meant"), GIVEN.values(), ids=GIVEN)
def test_what_is_written_is_what_is_meant(tmp_path, written, meant):
    formats, columns = map(tuple, written)
    assert given_options({"format": formats, "columns": columns}) == meant
    config = resolve({}, meant)
    path = tmp_path / "run.yaml"
    path.write_text(dump_yaml(config, ["p.json"], None))
    assert resolve(load_yaml(path).options, {}) == config == RunConfig(**config.model_dump())


@pytest.mark.parametrize(
    ("formats", "columns"),
    [(["a", "b"], []), (["p=a", "p=b"], []), (["p="], []), (["=a"], []), ([], ["p:prompt"]), ([], ["p:=x"]),
     ([], [":prompt=x"]), ([], ["p:prompt=a", "p:prompt=b"])],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(formats, columns):
    with pytest.raises(ConfigError, match=r"write it as|given twice"):
        given_options({"format": tuple(formats), "columns": tuple(columns)})
    with pytest.raises(ConfigError, match="per_file"):
        resolve({}, {"per_file": {"p": {"colums": {}}}})


def test_a_run_keeps_them_and_replays(tmp_path, tiny_model):
    chats = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "good"}]
    magpie = write_jsonl(
        tmp_path / "magpie.jsonl",
        [{"instruction": "Q", "response": "BAD", "conversations": chats, "n": n} for n in range(6)],
    )
    mixed = write_jsonl(
        tmp_path / "mixed.jsonl",
        [{"prompt": "Q", "completion": "A"}, {"question": "Q", "answer": "A", "options": ["x"]}] * 3,
    )
    inputs = [magpie, mixed, "--model", tiny_model]
    refused = spice("inspect", *inputs)
    assert refused.returncode == 2 and "fit more than one format: sharegpt and instruction-response" in refused.stderr
    unknown = spice("inspect", *inputs, "--format", "magpi.jsonl=sharegpt")
    assert unknown.returncode == 2 and "Inputs: magpie.jsonl, mixed.jsonl" in unknown.stderr
    shown = spice("inspect", *inputs, "--format", "magpie.jsonl=sharegpt").stdout
    assert "mixed: 6 rows, format mixed (prompt-completion 3, question-answer 3)" in shown
    assert "fields that are used: conversations" in shown and "⟦good" in shown and "BAD" not in shown
    output, again = tmp_path / "run", tmp_path / "again"
    options = ["--format", "magpie.jsonl=sharegpt", "--method", "random", "--budget", "50%"]
    done = spice("run", *inputs, *options, "--output", output)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((output / "manifest.json").read_text())
    assert yaml.safe_load((output / "run.yaml").read_text())["per_file"] == manifest["config"]["per_file"]
    assert manifest["config"]["per_file"] == {"magpie.jsonl": {"format": "sharegpt", "columns": {}}}
    assert manifest["inputs"][1]["formats"] == {"prompt-completion": 3, "question-answer": 3}
    assert manifest["inputs"][1]["unused"] == {"options": 3}
    assert spice("run", "--config", output / "run.yaml", "--output", again).returncode == 0
    assert read_jsonl(output / "selected.jsonl") == read_jsonl(again / "selected.jsonl")
    changed = spice("run", *inputs, *options[2:], "--format", "magpie.jsonl=instruction-response", "--output", output,
                    "--resume")  # fmt: skip
    assert changed.returncode == 2 and "per_file" in changed.stderr


def test_fine_tuning_and_evaluation_take_them(tmp_path, tiny_model):
    pool = write_jsonl(tmp_path / "p.jsonl", [{"q": "Q", "a": "A"}] * 3)
    columns = ["--column", "p.jsonl:question=q", "--column", "p.jsonl:answer=a"]
    done = spice("evaluate", tiny_model, "--data", pool, *columns)
    assert done.returncode == 0, done.stderr
    assert "3 held-out rows" in done.stderr
    for command in (
        ["evaluate", tiny_model, "--data", pool],
        ["finetune", pool, "--model", tiny_model, "--output", "x"],
    ):
        wrong = spice(*command, "--format", "p.json=alpaca", cwd=tmp_path)
        assert wrong.returncode == 2 and "No input is called 'p.json'" in wrong.stderr


def test_inspect_says_why_turns_and_rows_are_not_trained(tmp_path, tiny_model):
    turn, answer = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    rows = [
        {"prompt": [turn, answer, turn], "completion": [answer]},
        {"prompt": [turn], "completion": [{**answer, "train": False}, turn, answer]},
        {"prompt": "Q", "completion": "no", "label": False},
        {"prompt": "Q", "completion": ""},
    ]
    shown = spice("inspect", write_jsonl(tmp_path / "p.jsonl", rows), "--model", tiny_model).stdout
    assert "assistant turns that are context, not trained: marked in the data (1), before the answer (1)" in shown
    assert "left out, 1 rows: field 'label' is false" in shown
    assert "left out, 1 rows: field 'completion' holds no response" in shown
