"""What a trainer's labels must be, read from the run's `train.parquet` alone, without this project's own masks.

Each assistant turn that is trained must give one run of labelled tokens whose text is the turn's content and the
token that ends the turn. Content is compared without the white space around it, which some templates strip. A turn
of tool calls, which each template words its own way, must name the functions and end with that token.

Imports nothing of this project, so it runs in every trainer's environment.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from transformers import AutoTokenizer, PreTrainedTokenizerBase

IGNORED = -100


class Turn(NamedTuple):
    """A trained assistant turn: its text, and the functions it calls."""

    content: str
    calls: tuple[str, ...]


def arguments(description: str) -> argparse.Namespace:
    """The command line that the three scripts share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("run", type=Path, help="directory of a spice-select run")
    parser.add_argument("model", type=Path, help="directory with the model's config, weights and tokenizer")
    parser.add_argument("--end-of-turn", help="token that ends a turn, if it is not the tokenizer's eos token")
    given = parser.parse_args()
    given.run, given.model = given.run.resolve(), given.model.resolve()
    return given


def load_rows(run: Path, *, only_llamafactory: bool = False) -> list[dict[str, Any]]:
    """The rows of the run's `train.parquet`, of which LLaMA-Factory takes some only."""
    rows: list[dict[str, Any]] = pq.read_table(run / "train.parquet").to_pylist()
    return [row for row in rows if not only_llamafactory or row.get("llamafactory", True)]


def check(
    rows: list[dict[str, Any]],
    encoded: list[tuple[list[int], list[int]]],
    given: argparse.Namespace,
    *,
    space_after_turn: bool = False,
) -> int:
    """Compare a trainer's (input ids, labels) with the rows they come from, in order; print; 0 if all are right.

    `space_after_turn` lets white space after the end of a turn be labelled too.
    """
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    end = given.end_of_turn or tokenizer.eos_token
    labelled = sum(label != IGNORED for _, labels in encoded for label in labels)
    print(f"rows in train.parquet that should be read: {len(rows)}; rows read: {len(encoded)}")
    print(f"labelled tokens: {labelled} of {sum(len(ids) for ids, _ in encoded)}")
    wrong = 0
    for number, (row, (ids, labels)) in enumerate(zip(rows, encoded, strict=False)):
        texts = _labelled_texts(ids, labels, tokenizer)
        if number == 0:
            print(f"labelled text of the first row: {texts}")
        turns = _trained_turns(row)
        right = len(texts) == len(turns) and all(
            _matches(text, turn, end, space_after_turn) for text, turn in zip(texts, turns, strict=True)
        )
        print(f"{row['id']}: {sum(x != IGNORED for x in labels)} labelled tokens, {'ok' if right else 'WRONG'}")
        if not right:
            wrong += 1
            print(f"  expected {turns}\n  labelled {texts}")
    failed = wrong > 0 or len(rows) != len(encoded)
    print(f"{'FAILED' if failed else 'PASSED'}: {wrong} of {len(encoded)} rows with wrong labels")
    return int(failed)


def _trained_turns(row: dict[str, Any]) -> list[Turn]:
    return [
        Turn(
            (message["content"] or "").strip(),
            tuple(call["function"]["name"] for call in message.get("tool_calls") or ()),
        )
        for message in row["messages"]
        if message["role"] == "assistant" and message.get("train") is not False
    ]


def _labelled_texts(ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each unbroken run of labelled tokens."""
    runs: list[list[int]] = []
    before = IGNORED
    for token, label in zip(ids, labels, strict=True):
        if label != IGNORED:
            if label != token:
                return [f"label {label} on token {token}"]
            if before == IGNORED:
                runs.append([])
            runs[-1].append(token)
        before = label
    return [tokenizer.decode(run, skip_special_tokens=False, clean_up_tokenization_spaces=False) for run in runs]


def _matches(text: str, turn: Turn, end: str, space_after_turn: bool) -> bool:
    text = text.rstrip() if space_after_turn else text
    if not text.endswith(end):
        return False
    body = text[: -len(end)].strip()
    if turn.calls:
        return all(name in body for name in turn.calls)
    return body == turn.content
