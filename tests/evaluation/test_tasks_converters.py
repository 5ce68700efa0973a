"""Rows of several native layouts become the same fields; what is wrong is named with its place."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles.runs import write_jsonl
from spice_select.errors import ConfigError, PoolError
from spice_select.evaluation.tasks import converters
from spice_select.evaluation.tasks.benchmarks import BENCHMARKS
from spice_select.evaluation.tasks.local import need_file, read_rows

STONES = ["granite", "basalt", "chalk"]


def test_the_three_layouts_of_arc_are_one_question():
    texts, labels = STONES, ["A", "B", "C"]
    wanted = {"question": "Which is soft?", "choices": {"text": texts, "label": labels}, "answerKey": "C"}
    pairs = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    assert converters.arc(wanted) == wanted
    assert converters.arc({"query": "Question: Which is soft?", "choices": texts, "gold": 2}) == wanted
    assert converters.arc({"question": {"stem": "Which is soft?", "choices": pairs}, "answerKey": "C"}) == wanted


def test_arc_keeps_labels_that_are_digits():
    row = {"question": "?", "choices": {"text": STONES, "label": ["1", "2", "3"]}, "answerKey": "2"}
    assert converters.arc(row) == row


@given(st.integers(0, 3))
def test_mmlu_answers_are_places_or_letters(place):
    row = {"subject": "anatomy", "question": "?", "choices": ["w", "x", "y", "z"]}
    assert converters.mmlu({**row, "answer": place}) == converters.mmlu({**row, "answer": "ABCD"[place]})
    assert converters.mmlu({**row, "answer": place})["answer"] == place


def test_truthfulqa_sets_the_best_against_the_false_and_all_true_against_the_false():
    columns = {
        "Question": "What do stones eat?",
        "Best Answer": "Nothing",
        "Correct Answers": "Stones do not eat; Nothing; Nothing; ",
        "Incorrect Answers": "Moss; Sand",
    }
    wanted = {
        "question": "What do stones eat?",
        "mc1_targets": {"choices": ["Nothing", "Moss", "Sand"], "labels": [1, 0, 0]},
        "mc2_targets": {"choices": ["Stones do not eat", "Nothing", "Moss", "Sand"], "labels": [1, 1, 0, 0]},
    }
    hub = {
        "question": "What do stones eat?",
        "best_answer": "Nothing",
        "correct_answers": ["Stones do not eat"],
        "incorrect_answers": ["Moss", "Sand"],
    }
    assert converters.truthfulqa(columns) == wanted
    assert converters.truthfulqa(hub) == wanted
    assert converters.truthfulqa(wanted) == wanted


def test_ifeval_drops_arguments_that_are_null():
    row = {"key": 1, "prompt": "p", "instruction_id_list": ["a:b", "c:d"], "kwargs": [{"n": 3, "m": None}, {}]}
    assert converters.ifeval(row)["kwargs"] == [{"n": 3}, {}]


@given(st.integers(-5, 1200))
def test_mbpp_keeps_its_test_split(number):
    row = {"task_id": number, "prompt": "Add.", "test_list": ["assert 1"] * 3, "code": "x"}
    converted = converters.mbpp(row)
    assert (converted is not None) == (11 <= number <= 510)
    assert converted is None or converted["text"] == "Add."


@pytest.mark.parametrize(
    ("convert", "row", "said"),
    [
        (converters.gsm8k, {"question": "q"}, "no field 'answer'; the fields are: question"),
        (converters.gsm8k, {"question": 3, "answer": "a"}, "'question' is not text"),
        (converters.arc, {"question": "q", "choices": ["a"]}, "'gold' is missing"),
        (converters.arc, {"query": "q", "choices": ["a", "b"], "gold": 2}, "not one of 2 choices"),
        (converters.arc, {"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"}, "none of"),
        (converters.mmlu, {"subject": "s", "question": "q", "choices": ["a"], "answer": 0}, "four"),
        (converters.mmlu, {"subject": "s", "question": "q", "choices": list("abcd"), "answer": "E"}, "'E'"),
        (converters.truthfulqa, {"question": "q", "best_answer": "b"}, "incorrect_answers"),
        (converters.ifeval, {"key": 1, "prompt": "p", "instruction_id_list": ["a"], "kwargs": []}, "pairs"),
        (converters.humaneval, {"prompt": "p", "test": "t"}, "entry_point"),
        (converters.mbpp, {"task_id": 11, "text": "t", "test_list": ["a"]}, "three"),
        (converters.mbpp, {"task_id": "11", "text": "t"}, "whole number"),
    ],
)
def test_a_row_that_does_not_fit_is_named(convert, row, said, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [row])
    with pytest.raises(ConfigError, match=r"rows\.jsonl, row 1: ") as error:
        read_rows(path, convert)
    assert said in str(error.value)


def test_every_accepted_file_kind_holds_the_same_rows(tmp_path):
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    contents = {
        "gsm8k_test.jsonl": lines.encode(),
        "gsm8k_test.jsonl.gz": gzip.compress(lines.encode()),
        "gsm8k.json": json.dumps(rows).encode(),
        "gsm8k.csv": ("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(3))).encode(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        path = need_file(tmp_path, "gsm8k", BENCHMARKS["gsm8k"].files)
        assert path.name == name
        assert read_rows(path, converters.gsm8k) == rows
        path.unlink()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"looked for gsm8k_test\.jsonl or gsm8k\.jsonl"):
        need_file(tmp_path, "gsm8k", BENCHMARKS["gsm8k"].files)


def test_files_without_items_or_in_pieces_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no test item"):
        read_rows(write_jsonl(tmp_path / "mbpp.jsonl", [{"task_id": 1}]), converters.mbpp)
    (tmp_path / "torn.jsonl").write_text('{"question": "q", "answer": "a"}\n{"question"')
    with pytest.raises(ConfigError, match=r"torn\.jsonl, row 2: broken JSON"):
        read_rows(tmp_path / "torn.jsonl", converters.gsm8k)
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"question": "q"}\n' * 99)[:30])
    with pytest.raises((ConfigError, PoolError), match=r"torn\.jsonl\.gz"):
        read_rows(tmp_path / "torn.jsonl.gz", converters.gsm8k)


def test_there_are_the_eight():
    names = ["gsm8k", "bbh", "mmlu", "arc_challenge", "truthfulqa", "ifeval", "humaneval", "mbpp"]
    assert sorted(BENCHMARKS) == sorted(names)
