"""Likely wrong answers: losses are those of the model, and the list follows them."""

import json
import math
from pathlib import Path

import pytest

from oracles.forked import spice
from oracles.runs import byte_tokenizer, chat_rows, write_jsonl
from spice_select import select
from spice_select.errors import ConfigError, OutputError
from spice_select.pool.examples import read_pool
from spice_select.prepared import merged_config, prepare
from spice_select.progress import NoProgress
from spice_select.report.answers import FILE, measure_answers, suspects_of
from spice_select.report.audit import REASONS, audit_of, named_rows
from spice_select.report.content import Audit, DuplicateGroup, Findings
from spice_select.report.finished_run import open_run
from spice_select.schedule.ranking import two_losses

ROWS = 24


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    """Some rows of several turns, one of them context alone."""
    rows = chat_rows(ROWS, seed=11)
    for row in rows:
        row["id"] += "\x1b[31m"  # would colour a terminal
    turns = rows[3]["messages"]
    rows[3]["messages"] = [*turns[:-1], {**turns[-1], "weight": 0}, {"role": "user", "content": "again"}, turns[-1]]
    return write_jsonl(tmp_path_factory.mktemp("pool") / "chats.jsonl", rows)


@pytest.fixture(scope="module")
def run(tiny_model, pool, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("run") / "chosen"
    select([str(pool)], model=tiny_model, candidates=12, output=directory)
    return directory


def test_losses_are_those_of_each_answer_after_its_prompt_and_alone(run, pool, tiny_model):
    """Of the rows as the run kept them: one row at a time, read from the pool's own file, gives the same."""
    measure_answers(open_run(run), NoProgress())
    found = json.loads((run / "checkpoint" / FILE).read_text(encoding="utf-8"))["losses"]
    prepared = prepare([str(pool)], merged_config(None, {"model": tiny_model}), NoProgress())
    proxy = prepared.proxy(NoProgress())
    for example in read_pool([str(pool)], byte_tokenizer()).examples:
        ((after, alone),) = two_losses([example], proxy)
        assert found[example.id] == pytest.approx([after, None if math.isnan(alone) else alone], rel=1e-5)
    assert len(found) == ROWS


def write_losses(run: Path, losses: dict) -> None:
    content = {"format_version": 1, "losses": losses}
    (run / "checkpoint" / FILE).write_text(json.dumps(content), encoding="utf-8")


def test_the_surest_come_first(run):
    """Ratios from 0.95 on; by (ratio - 1) sqrt(tokens); an answer of one token has no ratio."""
    finished = open_run(run)
    lines = finished.lines[:5]
    pairs = [(2.0, 1.0), (1.1, 1.0), (0.94, 1.0), (0.96, 1.0), (9.0, None)]
    write_losses(run, {line.id: pair for line, pair in zip(lines, pairs, strict=True)})
    expected = sorted(
        (-(after / alone - 1) * math.sqrt(line.trained_tokens), line.id)
        for line, (after, alone) in zip(lines, pairs, strict=True)
        if alone and after / alone >= 0.95
    )
    assert [finding.line.id for finding in suspects_of(finished)] == [name for _, name in expected]
    assert [finding.line.id for finding in audit_of(finished).suspects.listed] == [name for _, name in expected]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format_version": 1, "losses": {"a": 3}}'])
def test_a_damaged_file_is_refused(run, content):
    (run / "checkpoint" / FILE).write_text(content, encoding="utf-8")
    with pytest.raises(OutputError, match=r"answers\.json: is damaged"):
        suspects_of(open_run(run))
    (run / "checkpoint" / FILE).write_text('{"format_version": 9}', encoding="utf-8")
    with pytest.raises(OutputError, match="format version 9"):
        suspects_of(open_run(run))
    (run / "checkpoint" / FILE).unlink()
    assert suspects_of(open_run(run)) is None


def test_the_command_reads_the_answers_when_asked(run, tiny_model, pool, tmp_path):
    (run / "checkpoint" / FILE).unlink(missing_ok=True)
    assert "give --answers to look for them" in spice("audit", run).stdout
    done = spice("audit", run, "--answers", "--limit", 3)
    assert done.returncode == 0, done.stderr
    assert "likely wrong answers: " in done.stdout and (run / "checkpoint" / FILE).exists()
    assert "\ufffd[31m" in done.stdout and "\x1b" not in done.stdout
    select([str(pool)], model=tiny_model, method="random", output=tmp_path / "random")
    refused = spice("audit", tmp_path / "random")
    assert refused.returncode == 2 and "method random computes no gradients" in refused.stderr


def test_ids_are_those_of_the_rows_named_and_exclude_takes_them(run, tiny_model, pool, tmp_path):
    """One a line, all lists together; with --only those of one list; a choice without them picks none of them."""
    write_losses(run, {line.id: (2.0, 1.0) for line in open_run(run).lines[:5]})
    audit, only = audit_of(open_run(run), whole=True), {}
    for reason in REASONS:
        done = spice("audit", run, "--only", reason, "--ids", tmp_path / f"{reason}.txt", "--same", 0.01)
        assert done.returncode == 0, done.stderr
        only[reason] = (tmp_path / f"{reason}.txt").read_text(encoding="utf-8").splitlines()
    assert set(only["conflicts"]) == {finding.line.id for finding in audit.conflicts.listed}
    assert set(only["loss"]) == {finding.line.id for finding in audit.doubtful.listed}
    assert sorted(only["answers"]) == sorted(line.id for line in open_run(run).lines[:5])
    spice("audit", run, "--ids", tmp_path / "all.txt", "--same", 0.01)
    named = (tmp_path / "all.txt").read_text(encoding="utf-8").splitlines()
    assert set(named) == {name for reason in REASONS if reason != "conflicts" for name in only[reason]}
    excluded = str(tmp_path / "answers.txt")
    found = select([str(pool)], model=tiny_model, candidates="all", dim=64, exclude=excluded, output=tmp_path / "run")
    assert not set(only["answers"]) & {open_run(tmp_path / "run").lines[row].id for row in found.indices}
    again = spice("audit", run, "--ids", tmp_path / "all.txt")
    assert again.returncode == 2 and "all.txt: exists already" in again.stderr
    assert (tmp_path / "all.txt").read_text(encoding="utf-8").splitlines() == named
    refused = spice("audit", run, "--only", "loss")
    assert refused.returncode == 2 and "--ids FILE" in refused.stderr
    (run / "checkpoint" / FILE).unlink()


def test_one_row_of_each_group_is_not_named(run):
    """Its first pick, or else its first row."""
    lines = open_run(run).lines
    groups = [DuplicateGroup(3, lines[0:3], 0.9, [1, 2]), DuplicateGroup(2, lines[4:6], 0.9)]
    audit = Audit("", None, groups, 2, Findings(0, []), None)
    assert [line.index for line in named_rows(audit, ["duplicates"])] == [0, 2, 5]
    assert named_rows(audit, ["loss", "answers", "outliers", "conflicts"]) == []


def test_without_texts_there_is_nothing_to_read(tiny_model, pool, tmp_path):
    select([str(pool)], model=tiny_model, candidates=12, output=tmp_path / "run")
    (tmp_path / "run" / "checkpoint" / "texts.parquet").unlink()
    with pytest.raises(ConfigError, match="kept no texts"):
        measure_answers(open_run(tmp_path / "run"), NoProgress())
