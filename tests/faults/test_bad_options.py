"""Options that are unknown, out of range or at odds, and configuration files of every bad kind."""

import json
from pathlib import Path

import pytest
import yaml

from oracles.commands import refusal
from oracles.runs import chat_rows, write_jsonl

OPTIONS = {
    "unknown": (["--penality", 1], ["penality"]),
    "without a value": (["--penalty"], ["penalty"]),
    "a text for a number": (["--penalty", "much"], ["penalty", "much"]),
    "below the range": (["--penalty", -1], ["penalty"]),
    "infinite": (["--penalty", "inf"], ["penalty"]),
    "not a number": (["--fisher-alpha", "nan"], ["fisher_alpha"]),
    "zero": (["--fisher-alpha", 0], ["fisher_alpha"]),
    "a fraction of a row": (["--candidates", 2.5], ["candidates"]),
    "no row": (["--candidates", 0], ["candidates"]),
    "too many digits": (["--seed", "9" * 5000], ["seed"]),
    "a seed too large": (["--seed", 2**32], ["seed"]),
    "unknown method": (["--method", "magic"], ["method", "magic"]),
    "unknown preset": (["--preset", "papers"], ["preset", "papers"]),
    "unknown format": (["--format", "alpacca"], ["alpacca", "alpaca"]),
    "column without equals": (["--column", "prompt"], ["FIELD=COLUMN"]),
    "column of no field": (["--column", "promt=x"], ["promt"]),
    "column that is nowhere": (["--column", "messages=chat"], ["chat"]),
    "budget no number": (["--budget", "lots"], ["budget", "lots"]),
    "budget zero": (["--budget", "0"], ["budget"]),
    "budget above 100 %": (["--budget", "101%"], ["budget"]),
    "budget above the pool": (["--budget", 6], ["at most 5"]),
    "budget below a row": (["--budget", "1%"], ["less than one row"]),
    "budget of many digits": (["--budget", "9" * 400], ["budget"]),
    "tokens in candidate pools": (["--candidates", 8, "--budget", "99tok"], ["budget in tokens"]),
    "quota in candidate pools": (["--candidates", 8, "--quota", "odd=1"], ["quota"]),
    "quota no share": (["--candidates", "all", "--quota", "odd=x"], ["quota", "x"]),
    "stop ratio above 1": (["--stop-ratio", 2], ["stop_ratio"]),
    "stop ratio of a baseline": (["--method", "random", "--stop-ratio", 0.5], ["stop_ratio"]),
    "method without features": (["--method", "dpp", "--candidates", "all"], ["dpp"]),
    "max length of a word": (["--max-length", "long"], ["max_length"]),
    "max length too short": (["--max-length", 1], ["max_length"]),
    "layers of no number": (["--layers", "first:3"], ["layers"]),
    "no such device": (["--device", "cuda:77"], ["cuda:77"]),
    "an odd device": (["--device", "toaster"], ["toaster"]),
    "resume and overwrite": (["--resume", "--overwrite"], ["--overwrite"]),
    "no such file to exclude": (["--candidates", "all", "--exclude", "absent.txt"], ["absent.txt"]),
    "no such store": (["--candidates", "all", "--given", "absent"], ["absent"]),
    "no such config": (["--config", "absent.yaml"], ["absent.yaml"]),
    "a folder as config": (["--config", "."], ["directory"]),
}
CONFIGS = {
    "no YAML": (b"a: [b\n", ["is not valid YAML"]),
    "tabs": (b"a:\n\tb: c\n", ["is not valid YAML"]),
    "no mapping": (b"- a\n- b\n", ["found list"]),
    "a word": (b"penalty", ["found str"]),
    "unknown key": (b"penality: 1\n", ["penality", "penalty"]),
    "key of a number": (b"1: 2\n", ["unknown key '1'"]),
    "not UTF-8": (b"model: \xff\n", ["UTF-8"]),
    "a null byte": (b"model: a\0b\n", ["is not valid YAML"]),
    "a null character": (b'output: "a\\0b"\n', ["null character"]),
    "a null character in a pool": (b'pools: ["a\\0b"]\n', ["null character"]),
    "a command": (b"!!python/object/apply:os.system ['touch marker']\n", ["is not valid YAML"]),
    "a Python name": (b"model: !!python/name:os.system\n", ["is not valid YAML"]),
    "a Python object": (b"model: !!python/object:pathlib.Path {}\n", ["is not valid YAML"]),
    "an odd tag": (b"model: !!bool maybe\n", ["is not valid YAML"]),
    "a day that is none": (b"model: 2001-99-99\n", ["is not valid YAML"]),
    "a date": (b"model: 2001-01-01\n", ["model", "date"]),
    "a long number": (b"seed: " + b"9" * 9999, ["is not valid YAML"]),
    "a long hexadecimal number": (b"seed: 0x" + b"f" * 9999, ["seed"]),
    "deep": (b"model: " + b"[" * 2000, ["is not valid YAML"]),
    "holds itself": (b"columns: &a\n  x: *a\n", ["values"]),
    "laughs": (
        b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n".encode() for i in range(1, 9)),
        ["values"],
    ),
    "pools of numbers": (b"pools: [1, 2]\n", ["pools"]),
    "output a list": (b"output: [a]\n", ["output"]),
    "columns a text": (b"columns: prompt\n", ["columns"]),
    "a method of a list": (b"method: [[[[[spice]]]]]\n", ["method"]),
    "preset a mapping": (b"preset: {a: b}\n", ["preset"]),
    "code by file": (b"trust_remote_code: true\n", ["--trust-remote-code"]),
}


@pytest.fixture
def pool(tmp_path) -> Path:
    return write_jsonl(tmp_path / "p.jsonl", chat_rows(5))


@pytest.mark.parametrize("name", OPTIONS)
def test_bad_options(name, pool, tiny_model, monkeypatch, capsys):
    options, clues = OPTIONS[name]
    arguments = ["run", "p.jsonl", "--model", tiny_model, "--output", "out", *options]
    message = refusal(pool.parent, arguments, monkeypatch, capsys)
    assert [clue for clue in clues if clue not in message] == [], message


@pytest.mark.parametrize("name", CONFIGS)
def test_bad_configs(name, pool, monkeypatch, capsys):
    content, clues = CONFIGS[name]
    (pool.parent / "run.yaml").write_bytes(content)
    message = refusal(pool.parent, ["run", "p.jsonl", "--config", "run.yaml"], monkeypatch, capsys)
    assert [clue for clue in ["run.yaml", *clues] if clue not in message] == [], message


STUDY = {"pool": ["p.jsonl"], "heldout": ["p.jsonl"], "cells": {"random": {"method": "random"}}}
STUDIES = {
    "empty": ({}, ["cells"]),
    "unknown key": ({**STUDY, "cels": {}}, ["cels", "cells"]),
    "a cell above": ({**STUDY, "cells": {"random": {"method": "random"}, "../../x": {}}}, ["../../x"]),
    "a cell in a folder": ({**STUDY, "cells": {"random": {"method": "random"}, "a/b": {}}}, ["a/b"]),
    "a cell of dots": ({**STUDY, "cells": {"random": {"method": "random"}, "..": {}}}, ["'..'"]),
    "a cell of two lines": ({**STUDY, "cells": {"random": {"method": "random"}, "a\nb": {}}}, ["cell"]),
    "a cell of a list": ({**STUDY, "cells": {"random": []}}, ["cells"]),
    "a cell with code": (
        {**STUDY, "cells": {"random": {"method": "random", "trust_remote_code": True}}},
        ["trust_remote_code"],
    ),
    "unknown baseline": ({**STUDY, "baseline": "spice"}, ["spice"]),
    "follows itself": (
        {**STUDY, "cells": {"random": {"method": "random", "equal_tokens_to": "random"}}},
        ["equal_tokens_to"],
    ),
    "no seeds": ({**STUDY, "seeds": 0}, ["seeds"]),
    "recipe of nonsense": ({**STUDY, "recipe": {"epochs": "many"}}, ["epochs"]),
    "no such pool": ({**STUDY, "pool": ["absent.jsonl"]}, ["absent.jsonl"]),
}


@pytest.mark.parametrize("name", STUDIES)
def test_bad_studies(name, pool, tiny_model, monkeypatch, capsys):
    content, clues = STUDIES[name]
    (pool.parent / "study.yaml").write_text(yaml.safe_dump({**content, "model": tiny_model}))
    message = refusal(pool.parent, ["study", "study.yaml", "--output", "out"], monkeypatch, capsys)
    assert [clue for clue in clues if clue not in message] == [], message


def test_a_cell_that_holds_itself(pool, monkeypatch, capsys):
    (pool.parent / "study.yaml").write_text("cells: &a\n  random: *a\n")
    assert "values" in refusal(pool.parent, ["study", "study.yaml", "--output", "out"], monkeypatch, capsys)


def test_the_name_of_a_pool_never_leads_elsewhere(pool, tiny_model, monkeypatch, capsys):
    """Without --output the results' directory has the pool's name, less whatever could lead elsewhere."""
    odd = pool.parent / "..\n\x1b[31m$(x).jsonl"
    odd.write_bytes(pool.read_bytes())
    monkeypatch.chdir(pool.parent)
    monkeypatch.setattr("sys.argv", ["spice-select", "run", odd.name, "--print-config"])
    from spice_select.cli import main

    main()
    output = yaml.safe_load(capsys.readouterr().out)["output"]
    assert Path(output).name == output
    assert output.isprintable()
    assert json.dumps(output).isascii()
