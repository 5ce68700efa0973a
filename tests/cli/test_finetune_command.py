"""The command line of `finetune`: what it prints, kills, several processes, mistakes."""

import json
import re
import signal
import subprocess
import sys

import pytest

from oracles.forked import ENVIRONMENT, spice_anew, torchrun
from oracles.runs import chat_rows, write_jsonl
from spice_select import cli

pytest.importorskip("trl")

FAST = ["--epochs", "1", "--batch-size", "8", "--lora-rank", "2", "--learning-rate", "0.01"]


def spice(monkeypatch, capfd, *arguments):
    """The command line in this process: its exit code, standard output and lines of standard error."""
    monkeypatch.setattr(sys, "argv", ["spice-select", *map(str, arguments)])
    capfd.readouterr()
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    printed = capfd.readouterr()
    return code, printed.out, [line for line in printed.err.splitlines() if line.strip()]


def test_it_prints_what_was_done_and_what_comes_next(monkeypatch, capfd, chat_pool, tiny_model, tmp_path):
    """Nothing else reaches the terminal: no banner, no bar, no warning, no control code."""
    out = tmp_path / "tuned"
    code, printed, told = spice(
        monkeypatch, capfd, "finetune", chat_pool, "--model", tiny_model, "--output", out, *FAST
    )
    assert code == 0, told
    record = json.loads((out / "finetune.json").read_text())
    for text in (
        "rows              57",
        f"{record['trained_tokens']:,} in one pass",
        "epochs            1",
        "steps             8, each of up to 8 rows",
        f"{record['losses'][0]:.4f} at the first step, {record['losses'][-1]:.4f} at the last",
        f"spice-select evaluate {out} --data",
    ):
        assert text in printed
    starts = (
        "reading", "chats: fields that are not used", "57 rows,", "loading", "8 optimizer steps",
        "epoch 1 of 1: mean loss", "fine-tuning: 57 of 57",
    )  # fmt: skip
    assert [any(line.startswith(start) for start in starts) for line in told] == [True] * len(told), told
    assert all(any(line.startswith(start) for line in told) for start in starts), told
    assert "\x1b" not in printed + "".join(told)


def test_a_dry_run_tells_what_a_training_takes_and_writes_nothing(chat_pool, tiny_model, tmp_path):
    (tmp_path / "scratch").mkdir()
    arguments = ["finetune", chat_pool, "--model", tiny_model, "--output", "t", "--dry-run", *FAST]
    done = spice_anew(*arguments, cwd=tmp_path, env={**ENVIRONMENT, "TMPDIR": str(tmp_path / "scratch")})
    assert done.returncode == 0, done.stderr
    needs = r"about 0:00:\d\d, \d\.\d GiB of memory, up to \d\.\d MB on disk"
    assert re.fullmatch(rf"forecast: {needs}\n", done.stdout), done.stdout
    told = [line for line in done.stderr.splitlines() if line.strip()]
    assert [line.split()[0] for line in told] == ["reading", "chats:", "57", "loading", "timing"], told
    assert [path.name for path in tmp_path.rglob("*")] == ["scratch"]


def test_a_killed_training_leaves_nothing_and_can_start_again(monkeypatch, capfd, chat_pool, tiny_model, tmp_path):
    arguments = ["finetune", chat_pool, "--model", tiny_model, "--output", tmp_path / "t", "--batch-size", "8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "spice_select", *map(str, arguments), "--epochs", "1000"],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 1 "):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "killed too late to show anything"
    assert all(path.name.startswith(".spice-lock") for path in tmp_path.iterdir()), "a dead holder's lock is free"
    assert spice(monkeypatch, capfd, *arguments, "--epochs", "0.2")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.slow
def test_two_processes_train_as_one(monkeypatch, capfd, tiny_model, tmp_path):
    """The same losses whether one process computes a step or two share it; only one of the two prints and writes."""
    rows = write_jsonl(tmp_path / "p.jsonl", chat_rows(32))
    common = ["finetune", rows, "--model", tiny_model, "--device", "cpu", *FAST]
    assert spice(monkeypatch, capfd, *common, "--output", tmp_path / "one")[0] == 0
    command = torchrun(2, "-m", "spice_select", *common, "--output", tmp_path / "two")
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint") == done.stderr.count("reading the rows") == 1
    one, two = (json.loads((tmp_path / name / "finetune.json").read_text())["losses"] for name in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-4)


def one_row(folder, text="a"):
    return write_jsonl(folder / "p.jsonl", [{"messages": [{"role": "user", "content": "q"},
                                                          {"role": "assistant", "content": text}]}])  # fmt: skip


def good(*options):
    return lambda folder: [one_row(folder), *options]


def empty(folder):
    (folder / "p.jsonl").write_text("")
    return [folder / "p.jsonl"]


def folder_of_files(folder):
    one_row(folder)
    return [folder]


def unfinished_run(folder):
    (folder / "run" / "checkpoint").mkdir(parents=True)
    (folder / "run" / "checkpoint" / "identity.json").write_text("{}")
    return [folder / "run"]


def run_among_others(folder):
    (folder / "run").mkdir()
    (folder / "run" / "train.parquet").write_bytes(b"")
    return [folder / "run", one_row(folder)]


def broken_run(folder):
    (folder / "run").mkdir()
    (folder / "run" / "train.parquet").write_bytes(b"PAR1 no")
    return [folder / "run"]


def broken_run_with(*options):
    return lambda folder: [*broken_run(folder), *options]


def adapter_as_model(folder):
    (folder / "tuned").mkdir()
    (folder / "tuned" / "adapter_config.json").write_text("{}")
    return [one_row(folder), "--model", "tuned"]


def output_exists(folder):
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("years of work")
    return [one_row(folder), "--overwrite"]


def output_is_a_file(folder):
    (folder / "out").write_text("mine")
    return [one_row(folder)]


MISTAKES = {
    "no data": (lambda folder: [], "DIR|POOL"),
    "missing file": (lambda folder: [folder / "absent.jsonl"], "absent.jsonl"),
    "empty data": (empty, "p.jsonl"),
    "all rows cut": (good("--max-length", "8"), "max_length 8 cuts off"),
    "a folder of files": (folder_of_files, "neither a run's directory"),
    "an unfinished run": (unfinished_run, "--resume"),
    "a run among others": (run_among_others, "selected.jsonl"),
    "a broken run": (broken_run, "train.parquet"),
    "format of a run": (broken_run_with("--format", "messages"), "leave out --format"),
    "invalid rows of a run": (broken_run_with("--skip-invalid"), "--skip-invalid"),
    "columns of a run": (broken_run_with("--column", "prompt=q"), "--column"),
    "no such model": (good("--model", "./nowhere"), "nowhere"),
    "an adapter as model": (adapter_as_model, "is an adapter; name its base model"),
    "revision of a local model": (good("--revision", "main"), "leave out --revision"),
    "hub model offline": (good("--model", "someone/some-model"), "some-model"),
    "output exists": (output_exists, "not written by finetune"),
    "output is a file": (output_is_a_file, "is a file"),
    "rate of zero": (good("--learning-rate", "0"), "learning_rate"),
    "rate that is no number": (good("--learning-rate", "fast"), "learning_rate"),
    "infinite epochs": (good("--epochs", "inf"), "epochs"),
    "half a row": (good("--batch-size", "0"), "batch_size"),
    "all warm-up": (good("--warmup", "1"), "warmup"),
    "no rows at once": (good("--rows-at-once", "0"), "rows_at_once"),
    "no such device": (good("--device", "cuda:7"), "cuda:7"),
    "no such precision": (good("--dtype", "int8"), "dtype"),
    "bad column": (good("--column", "prompt"), "FIELD=COLUMN"),
    "unknown option": (good("--epoch", "1"), "--epochs"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name, monkeypatch, capfd, tmp_path, tiny_model):
    """One to three lines, exit code 2, and the folder is as it was."""
    make, clue = MISTAKES[name]
    arguments = [str(argument) for argument in make(tmp_path)]
    if "--model" not in arguments:
        arguments += ["--model", tiny_model]
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, printed, told = spice(monkeypatch, capfd, "finetune", *arguments, "--output", "out")
    error = [line for line in told if not line.startswith(("reading the rows", "loading"))]
    assert code == 2 and not printed, told
    assert 1 <= len(error) <= 3 and error[0].startswith("spice-select: ")
    assert clue in "\n".join(error)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_batch_that_the_processes_cannot_share(monkeypatch, capfd, tmp_path, tiny_model):
    monkeypatch.setenv("WORLD_SIZE", "3")
    arguments = ["finetune", one_row(tmp_path), "--model", tiny_model, "--output", tmp_path / "t"]
    code, _, told = spice(monkeypatch, capfd, *arguments)
    assert code == 2 and "multiple of 3" in told[0]


def test_no_output_is_said(monkeypatch, capfd, tmp_path):
    code, _, told = spice(monkeypatch, capfd, "finetune", one_row(tmp_path))
    assert code == 2 and "--output" in told[0]


def test_the_help_shows_every_part_of_the_recipe(monkeypatch, capfd):
    from spice_select.recipe import Recipe

    code, printed, _ = spice(monkeypatch, capfd, "finetune", "--help")
    assert code == 0
    for name, field in Recipe.model_fields.items():
        assert f"--{name.replace('_', '-')} " in printed and f"[{field.default:g}]" in printed
    assert [part in printed for part in ("The model:", "The recipe:", "Reading:", "Machine:", "Examples:")] == [
        True
    ] * 5
