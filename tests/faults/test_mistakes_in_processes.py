"""A user's mistake ends in one to three lines, exit code 2, no traceback, and nothing written.

Some of each kind, as separate processes; the tables beside this file hold the others to the same in one process.
"""

import json

import pytest

from oracles.forked import spice, spice_anew
from oracles.runs import chat_rows, write_jsonl

pytestmark = pytest.mark.slow

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def broken_json(folder):
    (folder / "p.jsonl").write_text(json.dumps(GOOD) + "\n{broken\n")
    return [folder / "p.jsonl"]


def text(name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return [folder / name]

    return make


def good(*options):
    return lambda folder: [write_jsonl(folder / "p.jsonl", chat_rows(5)), *options]


MISTAKES = {
    "missing file": (lambda folder: [folder / "absent.jsonl"], "absent.jsonl"),
    "broken json": (broken_json, "row 2"),
    "broken parquet": (text("p.parquet", b"PAR1 no"), "p.parquet"),
    "unknown option": (good("--penality", "1"), "penality"),
    "no such model": (good("--model", "./nowhere"), "nowhere"),
    "missing config": (good("--config", "absent.yaml"), "absent.yaml"),
}
ANEW = ("no such model",)
"""Here what libraries print when they are imported is seen, too."""


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name, tmp_path, tiny_model):
    make, clue = MISTAKES[name]
    arguments = [str(argument) for argument in make(tmp_path)]
    if "--model" not in arguments:
        arguments += ["--model", tiny_model]
    before = sorted(tmp_path.rglob("*"))
    start = spice_anew if name in ANEW else spice
    done = start("run", *arguments, "--output", "out", cwd=tmp_path)
    error = [line for line in done.stderr.splitlines() if line.strip() and line != "reading the pool"]
    assert done.returncode == 2, done.stderr
    assert 1 <= len(error) <= 3 and "Traceback" not in done.stderr, done.stderr
    assert clue in "\n".join(error)
    assert sorted(tmp_path.rglob("*")) == before, "nothing may be written"
