"""One row of a local file to the fields that lm-eval's prompts name; several native layouts of each benchmark.

A converter returns the fields, or None where the row is no test item; it raises ConfigError without the place, which
the reader adds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from spice_select.errors import ConfigError

Fields: TypeAlias = Mapping[str, Any]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MBPP_TEST_IDS = range(11, 511)
"""MBPP numbers its own splits: 1-10 prompt, 11-510 test, 511-600 validation, 601-974 training."""


def gsm8k(row: Fields) -> dict[str, Any]:
    """`question`, `answer`, as OpenAI's files and the hub have them."""
    return {"question": _text(row, "question"), "answer": _text(row, "answer")}


def bbh(row: Fields) -> dict[str, Any]:
    """`task` (the subtask's name), `input`, `target`."""
    return {"task": _text(row, "task"), "input": _text(row, "input"), "target": _text(row, "target")}


def mmlu(row: Fields) -> dict[str, Any]:
    """`subject`, `question`, four `choices`, `answer` as 0-3 or A-D."""
    choices = _texts(row, "choices")
    if len(choices) != 4:
        raise ConfigError(f"field 'choices' has {len(choices)} entries; MMLU's questions have four.")
    answer = _index(row, "answer", 4)
    return {"subject": _text(row, "subject"), "question": _text(row, "question"), "choices": choices, "answer": answer}


def arc(row: Fields) -> dict[str, Any]:
    """The hub's layout, AI2's own (`question.stem`), or `query`, `choices`, `gold` (a place in the choices)."""
    if "gold" in row:
        texts = _texts(row, "choices")
        question = _text(row, "query").removeprefix("Question:").strip()
        labels = list(LETTERS[: len(texts)])
        return _arc(question, texts, labels, labels[_index(row, "gold", len(texts))])
    question = _need(row, "question")
    if isinstance(question, Mapping):
        stem = cast("Fields", question)
        pairs = [cast("Fields", pair) for pair in _list(stem, "choices")]
        texts, labels = [_text(pair, "text") for pair in pairs], [_text(pair, "label") for pair in pairs]
        return _arc(_text(stem, "stem"), texts, labels, _text(row, "answerKey"))
    choices = _need(row, "choices")
    if not isinstance(choices, Mapping):
        raise ConfigError("field 'choices' is no object of 'text' and 'label' (or 'gold' is missing).")
    options = cast("Fields", choices)
    return _arc(_text(row, "question"), _texts(options, "text"), _texts(options, "label"), _text(row, "answerKey"))


def truthfulqa(row: Fields) -> dict[str, Any]:
    """The hub's `mc1_targets` and `mc2_targets`, or the questions with their best, correct and incorrect answers.

    From answers: mc1 is the best one against the incorrect ones, mc2 every correct one against the incorrect ones.
    """
    question = _text(row, "question", "Question")
    if "mc1_targets" in row:
        return {
            "question": question,
            "mc1_targets": _targets(row, "mc1_targets"),
            "mc2_targets": _targets(row, "mc2_targets"),
        }
    best = _text(row, "best_answer", "Best Answer").strip()
    wrong = _answers(row, "incorrect_answers", "Incorrect Answers")
    right = list(dict.fromkeys([*_answers(row, "correct_answers", "Correct Answers"), best]))
    return {"question": question, "mc1_targets": _labelled([best], wrong), "mc2_targets": _labelled(right, wrong)}


def ifeval(row: Fields) -> dict[str, Any]:
    """Google's layout: `key`, `prompt`, `instruction_id_list` and one `kwargs` object an instruction."""
    names, arguments = _texts(row, "instruction_id_list"), _list(row, "kwargs")
    if len(names) != len(arguments):
        raise ConfigError(f"has {len(names)} instructions and {len(arguments)} kwargs; they go in pairs.")
    given = [{key: value for key, value in cast("Fields", item).items() if value is not None} for item in arguments]
    return {"key": _need(row, "key"), "prompt": _text(row, "prompt"), "instruction_id_list": names, "kwargs": given}


def humaneval(row: Fields) -> dict[str, Any]:
    """`prompt`, `test`, `entry_point`."""
    return {name: _text(row, name) for name in ("prompt", "test", "entry_point")}


def mbpp(row: Fields) -> dict[str, Any] | None:
    """`text` (`prompt` in the sanitized set), at least three tests in `test_list`, `task_id`; test ids only."""
    if _integer(row, "task_id") not in MBPP_TEST_IDS:
        return None
    tests = _texts(row, "test_list")
    if len(tests) < 3:
        raise ConfigError(f"field 'test_list' has {len(tests)} tests; the prompt shows three.")
    return {"text": _text(row, "text", "prompt"), "test_list": tests}


def _arc(question: str, texts: list[str], labels: list[str], answer: str) -> dict[str, Any]:
    if len(texts) != len(labels) or answer not in labels:
        raise ConfigError(f"answer '{answer}' is none of the labels {', '.join(labels)} of {len(texts)} choices.")
    return {"question": question, "choices": {"text": texts, "label": labels}, "answerKey": answer}


def _answers(row: Fields, *names: str) -> list[str]:
    """A list, or text separated by semicolons; blanks and repetitions dropped, the order kept."""
    value = _need(row, *names)
    parts = cast("Sequence[Any]", value.split(";") if isinstance(value, str) else value)
    return list(dict.fromkeys(text for part in parts if (text := str(part).strip())))


def _labelled(right: list[str], wrong: list[str]) -> dict[str, Any]:
    if not wrong:
        raise ConfigError("has no incorrect answer to choose against.")
    return {"choices": [*right, *wrong], "labels": [1] * len(right) + [0] * len(wrong)}


def _targets(row: Fields, name: str) -> dict[str, Any]:
    targets = _need(row, name)
    if not isinstance(targets, Mapping):
        raise ConfigError(f"field '{name}' is no object of 'choices' and 'labels'.")
    fields = cast("Fields", targets)
    return {"choices": _texts(fields, "choices"), "labels": [int(label) for label in _list(fields, "labels")]}


def _need(row: Fields, *names: str) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise ConfigError(f"no field '{names[0]}'; the fields are: {', '.join(row) or 'none'}.")


def _text(row: Fields, *names: str) -> str:
    value = _need(row, *names)
    if not isinstance(value, str):
        raise ConfigError(f"field '{names[0]}' is not text.")
    return value


def _list(row: Fields, name: str) -> list[Any]:
    value = _need(row, name)
    if not isinstance(value, list):
        raise ConfigError(f"field '{name}' is not a list.")
    return cast("list[Any]", value)


def _texts(row: Fields, name: str) -> list[str]:
    return [str(item) for item in _list(row, name)]


def _integer(row: Fields, name: str) -> int:
    value = _need(row, name)
    if not isinstance(value, int):
        raise ConfigError(f"field '{name}' is not a whole number.")
    return value


def _index(row: Fields, name: str, count: int) -> int:
    """A place among `count` choices, given as a number from 0 or as a letter from A."""
    value = _need(row, name)
    place = LETTERS.find(value) if isinstance(value, str) and len(value) == 1 else value
    if not isinstance(place, int) or not 0 <= place < count:
        raise ConfigError(
            f"field '{name}' is {value!r}, not one of {count} choices (0-{count - 1} or A-{LETTERS[count - 1]})."
        )
    return place
