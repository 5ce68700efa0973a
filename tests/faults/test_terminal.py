"""What data says reaches a terminal as text: no command writes its control characters."""

import json
import sys

import pytest

from oracles.runs import chat_rows, write_jsonl
from spice_select.cli import main

HOSTILE = "\x1b[31m\x9b\u202ered"
RUN = ["run", "p.jsonl", "--model", "MODEL", "--candidates", "20", "--lora-rank", "2", "--warmup-steps", "1"]


@pytest.fixture
def say(tmp_path, tiny_model, monkeypatch, capsys):
    """Run a command in a folder with a hostile pool; what it printed."""
    rows = chat_rows(40)
    rows = [row | {"id": f"{HOSTILE}{row['id']}", "source": f"{HOSTILE}{row['source']}"} for row in rows]
    write_jsonl(tmp_path / "p.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)  # makes bold lines of our own

    def run(*arguments: str) -> str:
        words = [tiny_model if argument == "MODEL" else argument for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["spice-select", *words])
        main()
        captured = capsys.readouterr()
        said = captured.out + captured.err
        assert not set("\x1b\x9b\u202e") & set(said), said
        return said

    return run


def test_run_report_audit_compare_and_inspect(say):
    inspected = say("inspect", "p.jsonl", "--model", "MODEL")
    chosen = say(*RUN, "--output", "a")
    say(*RUN, "--output", "b", "--seed", "1")
    say("report", "a")
    audited = say("audit", "a", "--same", "0.01")
    say("compare", "a", "b")
    assert all("\N{REPLACEMENT CHARACTER}" in said for said in (inspected, chosen, audited)), (
        "they do show ids or sources"
    )


def test_evaluate(say):
    assert "\N{REPLACEMENT CHARACTER}" in say("evaluate", "MODEL", "--data", "p.jsonl")


def test_study(say, tmp_path, tiny_model):
    pytest.importorskip("trl")
    about = {"model": tiny_model, "pool": "p.jsonl", "heldout": "h.jsonl", "budget": 4, "seeds": 1}
    about |= {"cells": {"random": {"method": "random"}}, "recipe": {"epochs": 1}}
    (tmp_path / "s.yaml").write_text(json.dumps(about))
    held = [row | {"source": f"{HOSTILE}other"} for row in chat_rows(4)]
    write_jsonl(tmp_path / "h.jsonl", held)
    assert "\N{REPLACEMENT CHARACTER}" in say("study", "s.yaml", "--output", "study")
