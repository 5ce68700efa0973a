"""`spice-select evaluate` in a subprocess on a tiny model: table, JSON, comparison, refusals."""

import hashlib
import json
import shutil
import sys

import pytest

from oracles.evaluation_oracle import oracle_losses, save_adapter, unmerged
from oracles.forked import spice
from oracles.runs import byte_tokenizer, chat_rows, read_jsonl, write_jsonl
from spice_select.cli import main
from spice_select.evaluation.tasks.benchmarks import BENCHMARKS


def evaluate(*arguments, cwd=None):
    return spice("evaluate", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, tiny_model):
    return save_adapter(tmp_path_factory.mktemp("tuned"), tiny_model, ours=True)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, adapter, tiny_model, chat_pool):
    """One evaluation with everything: two files, a comparison, a JSON file."""
    folder = tmp_path_factory.mktemp("measured")
    more = write_jsonl(folder / "more.jsonl", [{"messages": row["messages"]} for row in chat_rows(9, seed=8)])
    output = folder / "e.json"
    done = evaluate(adapter, "--data", chat_pool, more, "--against", tiny_model, "--output", output, "--resamples", 300)
    assert done.returncode == 0, done.stderr
    return done, json.loads(output.read_text(encoding="utf-8")), more


def test_the_json_is_the_oracles(measured, adapter, tiny_model, chat_pool):
    _, report, more = measured
    assert (report["format"], report["version"], report["complete"]) == ("spice-select-evaluation", 1, True)
    assert report["checkpoint"] == str(adapter) and report["tasks"] == {}
    heldout = report["heldout"]
    assert [file["sha256"] for file in heldout["data"]] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (chat_pool, more)
    ]
    rows = read_jsonl(chat_pool) + read_jsonl(more)
    expected = oracle_losses(unmerged(adapter, tiny_model), byte_tokenizer(), rows)
    assert [row["loss"] for row in heldout["rows"].values()] == pytest.approx(expected, abs=1e-5)
    assert list(heldout["rows"])[:2] == ["row-0", "row-1"]
    assert {name: source["rows"] for name, source in heldout["sources"].items()} == {"even": 29, "more": 9, "odd": 28}
    means = [source["mean"] for source in heldout["sources"].values()]
    assert heldout["macro"]["mean"] == pytest.approx(sum(means) / 3)
    low, high = heldout["macro"]["interval"]
    assert low < heldout["macro"]["mean"] < high
    against = report["against"]
    assert against["difference"]["macro"] == pytest.approx(
        heldout["macro"]["mean"] - against["heldout"]["macro"]["mean"]
    )
    assert against["fingerprint"] == report["fingerprint"].split("+")[1]


def test_the_table_ends_with_the_macro_mean_and_a_verdict(measured, tiny_model):
    done, report, _ = measured
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert [line[0] for line in lines] == ["source", "even", "more", "odd", "all", "macro", "against"]
    assert lines[5][1] == f"{report['heldout']['macro']['mean']:.4f}"
    verdict = done.stdout.splitlines()[-1]
    low, high = report["against"]["difference"]["interval"]
    assert ("excludes zero" in verdict) == (low > 0 or high < 0)
    assert tiny_model in verdict
    assert "held-out loss: 66 of 66 rows" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr, "no terminal, no control codes"


def test_a_model_against_itself(tmp_path, tiny_model, chat_pool):
    done = evaluate(
        tiny_model, "--data", chat_pool, "--against", tiny_model, "--limit-per-source", 5, "--output", "e.json",
        "--batch-tokens", 90, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "e.json").read_text())
    assert report["against"]["difference"] == {"macro": 0.0, "interval": [0.0, 0.0]}
    assert len(report["heldout"]["rows"]) == 10 and report["heldout"]["settings"]["limit_per_source"] == 5
    assert "includes zero" in done.stdout


def test_one_row_in_a_source_gives_no_verdict(tmp_path, tiny_model, adapter, chat_pool):
    done = evaluate(
        adapter,
        "--data",
        chat_pool,
        "--against",
        tiny_model,
        "--limit-per-source",
        1,
        "--output",
        "e.json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "e.json").read_text())
    assert report["heldout"]["macro"]["interval"] is None and report["against"]["difference"]["interval"] is None
    assert "no verdict: source 'even' has one row" in done.stdout and "zero" not in done.stdout
    assert {line.split()[4] for line in done.stdout.splitlines() if line.startswith(("even", "odd"))} == {"-"}


@pytest.mark.parametrize("later", ["comparison", "task"])
def test_what_was_measured_before_a_failure_is_kept(tmp_path, tiny_model, chat_pool, later):
    """Weights that only loading finds damaged; while a model's window is checked before anything is measured."""
    output = tmp_path / "e.json"
    arguments = [tiny_model, "--data", chat_pool, "--limit-per-source", 3, "--output", output]
    if later == "comparison":
        other = shutil.copytree(tiny_model, tmp_path / "other")
        (other / "model.safetensors").write_bytes(b"torn")
        done = evaluate(*arguments, "--against", other)
        report = json.loads(output.read_text())
        assert report["complete"] is False and report["against"] is None and len(report["heldout"]["rows"]) == 6
        assert "macro" in done.stdout and f"finished parts are in {output}" in done.stderr
    else:
        pytest.importorskip("lm_eval")
        write_jsonl(tmp_path / "bbh.jsonl", [{"task": "navigate", "input": "left", "target": "No"}])
        done = evaluate(*arguments, "--tasks", "bbh", "--task-data", tmp_path)
        assert "window" in done.stderr and not output.exists() and not done.stdout
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_an_existing_file_is_kept_unless_told(tmp_path, tiny_model, chat_pool):
    output = tmp_path / "e.json"
    output.write_text("precious")
    arguments = (tiny_model, "--data", chat_pool, "--limit-per-source", 1, "--output", output)
    done = evaluate(*arguments)
    assert done.returncode == 2 and "--overwrite" in done.stderr and output.read_text() == "precious"
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert evaluate(*arguments, "--overwrite").returncode == 0
    assert json.loads(output.read_text())["version"] == 1
    assert list(tmp_path.iterdir()) == [output]


def test_the_help_names_every_option_under_a_heading():
    done = evaluate("--help")
    assert done.returncode == 0
    assert "Examples:" in done.stdout and "macro" in done.stdout
    assert done.stdout.split("Other:")[1].split()[0] in ("-h,", "--help"), "only --help belongs to no heading"


def test_the_help_names_the_tasks_and_their_files():
    listed = "".join(evaluate("--help").stdout.split("Names for --tasks")[1].split())
    for name, task in BENCHMARKS.items():
        assert "".join(f"{name} {task.about} [".split()) in listed
        assert all(stem in listed for stem in (*task.files, task.shot_file))


MISTAKES = {
    "no arguments": ([], "CKPT"),
    "nothing to measure": (["{model}"], "--data"),
    "no checkpoint": ([".", "--data", "good.jsonl"], "no config.json inside"),
    "missing data": (["{model}", "--data", "absent.jsonl"], "absent.jsonl"),
    "bad row": (["{model}", "--data", "bad.jsonl"], "narrator"),
    "against without data": (["{model}", "--against", "{model}", "--tasks", "mmlu"], "--against does nothing without"),
    "against nothing": (["{model}", "--data", "good.jsonl", "--against", "./nowhere", "--output", "e.json"], "nowhere"),
    "no file of a task": (
        ["{model}", "--data", "good.jsonl", "--tasks", "bbh", "--task-data", ".", "--output", "e.json"],
        "no file of bbh",
    ),
    "data before the checkpoint": (["--data", "good.jsonl", "{model}"], "put it before --data"),
    "task data without tasks": (["{model}", "--data", "good.jsonl", "--task-data", "."], "without --tasks"),
    "task limit without tasks": (["{model}", "--data", "good.jsonl", "--task-limit", "1"], "without --tasks"),
    "execution without tasks": (["{model}", "--data", "good.jsonl", "--execute-code"], "without --tasks"),
    "a default, said, without tasks": (["{model}", "--data", "good.jsonl", "--task-batch", "8"], "without --tasks"),
    "limit without data": (["{model}", "--tasks", "mmlu", "--limit-per-source", "1"], "without --data"),
    "overwrite without output": (["{model}", "--data", "good.jsonl", "--overwrite"], "without --output"),
    "revision of a directory": (["{model}", "--data", "good.jsonl", "--revision", "v1"], "no hub id"),
    "output is an input": (["{model}", "--data", "good.jsonl", "--output", "good.jsonl", "--overwrite"], "is an input"),
    "output in no directory": (["{model}", "--data", "good.jsonl", "--output", "no/e.json"], "is missing"),
    "output is a directory": (["{model}", "--data", "good.jsonl", "--output", "."], "is a directory"),
    "bad dtype": (["{model}", "--data", "good.jsonl", "--dtype", "int4"], "bfloat16"),
    "bad column": (["{model}", "--data", "good.jsonl", "--column", "x"], "FIELD=COLUMN"),
    "bad device": (["{model}", "--data", "good.jsonl", "--device", "cuda:7"], "cuda:7"),
    "code that is not allowed": (["{model}", "--tasks", "humaneval"], "--execute-code"),
    "bad limit": (["{model}", "--data", "good.jsonl", "--limit-per-source", "0"], "--limit-per-source"),
    "unknown task": (["{model}", "--tasks", "mmlu,chess"], "chess"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name, tmp_path, tiny_model, monkeypatch, capsys):
    """In this process, because the same `main` starts at once here."""
    good = chat_rows(4)
    write_jsonl(tmp_path / "good.jsonl", good)
    turns = [{"role": "narrator", "content": "q"}, {"role": "assistant", "content": "a"}]
    write_jsonl(tmp_path / "bad.jsonl", [good[0], {"messages": turns}])
    arguments, clue = MISTAKES[name]
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["spice-select", "evaluate", *(a.format(model=tiny_model) for a in arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    before_it, _, said = capsys.readouterr().err.partition("spice-select: ")
    error = said.strip().splitlines()
    assert 1 <= len(error) <= 3 and clue in "\n".join(error), error
    assert "held-out loss" not in before_it, "nothing is measured first"
    assert sorted(tmp_path.rglob("*")) == before, "nothing may be written"
