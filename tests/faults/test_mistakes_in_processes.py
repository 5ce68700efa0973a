"""A user's mistake ends in one to three lines, exit code 2, no traceback, and nothing written."""

import gzip
import json
import os
import subprocess
import sys

import pytest

from oracles.runs import chat_rows, write_jsonl

pytestmark = pytest.mark.slow

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def bad_role(folder):
    row = {"messages": [{"role": "narrator", "content": "q"}, {"role": "assistant", "content": "a"}]}
    return [write_jsonl(folder / "p.jsonl", [GOOD, row])]


def broken_json(folder):
    (folder / "p.jsonl").write_text(json.dumps(GOOD) + "\n{broken\n")
    return [folder / "p.jsonl"]


def broken_gzip(folder):
    (folder / "p.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode())[:-9])
    return [folder / "p.jsonl.gz"]


def text(name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return [folder / name]

    return make


def good(*options):
    return lambda folder: [write_jsonl(folder / "p.jsonl", chat_rows(5)), *options]


def run_as_pool(folder):
    (folder / "run").mkdir()
    write_jsonl(folder / "run" / "selected.jsonl", [GOOD])
    return [folder / "run"]


MISTAKES = {
    "missing file": (lambda folder: [folder / "absent.jsonl"], "absent.jsonl"),
    "empty file": (text("p.jsonl", b""), "p.jsonl"),
    "unknown suffix": (text("p.docx", b"x"), "p.docx"),
    "unknown role": (bad_role, "narrator"),
    "broken json": (broken_json, "row 2"),
    "broken gzip": (broken_gzip, "p.jsonl.gz"),
    "not utf-8": (text("p.jsonl", b'{"messages": "\xff\xfe"}\n'), "p.jsonl"),
    "broken parquet": (text("p.parquet", b"PAR1 no"), "p.parquet"),
    "no known format": (text("p.jsonl", b'{"alpha": 1}\n'), "alpha"),
    "wrong types": (text("p.jsonl", b'{"question": 3, "answer": ["x"]}\n'), "question"),
    "no response": (text("p.csv", b"prompt,completion\nhello,\n"), "completion"),
    "scalar rows": (text("p.jsonl", b"1\n2\n"), "row 1"),
    "a run as pool": (run_as_pool, "selected.jsonl"),
    "no pool": (lambda folder: [], "POOL"),
    "unknown option": (good("--penality", "1"), "penality"),
    "bad value": (good("--penalty", "-1"), "penalty"),
    "budget above the pool": (good("--budget", "6"), "at most 5"),
    "no such model": (good("--model", "./nowhere"), "nowhere"),
    "hub model offline": (good("--model", "someone/some-model"), "some-model"),
    "no such device": (good("--device", "cuda:7"), "cuda:7"),
    "no such format": (good("--format", "alpacca"), "alpacca"),
    "bad column": (good("--column", "prompt"), "FIELD=COLUMN"),
    "both resume and overwrite": (good("--resume", "--overwrite"), "--overwrite"),
    "missing config": (good("--config", "absent.yaml"), "absent.yaml"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name, tmp_path, tiny_model):
    make, clue = MISTAKES[name]
    arguments = [str(argument) for argument in make(tmp_path)]
    if "--model" not in arguments:
        arguments += ["--model", tiny_model]
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "spice_select", "run", *arguments, "--output", "out"],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    error = [line for line in done.stderr.splitlines() if line.strip() and line != "reading the pool"]
    assert done.returncode == 2, done.stderr
    assert 1 <= len(error) <= 3 and "Traceback" not in done.stderr, done.stderr
    assert clue in "\n".join(error)
    assert sorted(tmp_path.rglob("*")) == before, "nothing may be written"
