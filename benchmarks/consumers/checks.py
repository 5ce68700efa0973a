"""What a trainer's labels must be, read from the run's `train.parquet` alone, without this project's own masks.

Each assistant turn that is trained must give one run of labelled tokens whose text is the turn's content and the
token that ends the turn. Content is compared without the white space around it, which some templates strip, and without
a thinking part before it, which some templates write anew. A turn of tool calls, which each template words its own way,
must name the functions and end with that token. With `--labels`, the rows of `training_dataset` for the same run and
model, all tokens and labels must be theirs too.

Imports nothing of this project, so it runs in every trainer's environment.
"""

import argparse
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from transformers import AutoTokenizer, PreTrainedTokenizerBase

IGNORED = -100

_THINKING = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)


class Encoded(NamedTuple):
    """A row as the trainer sees it, without padding."""

    ids: list[int]
    labels: list[int]


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
    parser.add_argument("--labels", type=Path, help="Parquet of training_dataset's rows, to be met token for token")
    given = parser.parse_args()
    given.run, given.model = given.run.resolve(), given.model.resolve()
    return given


def load_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of the run's `train.parquet`."""
    rows: list[dict[str, Any]] = pq.read_table(run / "train.parquet").to_pylist()
    return rows


def check(rows: list[dict[str, Any]], encoded: list[Encoded], given: argparse.Namespace) -> int:
    """Compare a trainer's rows with those they come from, in order.

    Prints each wrong row and a table by source; returns 0 if all are right.
    """
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    end = given.end_of_turn or tokenizer.eos_token
    references = [None] * len(rows) if given.labels is None else _references(given.labels)
    labelled = sum(label != IGNORED for row in encoded for label in row.labels)
    print(f"rows in train.parquet: {len(rows)}; rows read: {len(encoded)}")
    print(f"labelled tokens: {labelled} of {sum(len(row.ids) for row in encoded)}")
    verdicts: Counter[tuple[str, str]] = Counter()
    for row, reference, found in zip(rows, references, encoded, strict=False):
        texts, turns = _labelled_texts(found, tokenizer), _trained_turns(row)
        right = len(texts) == len(turns) and all(map(_matches, texts, turns, [end] * len(turns)))
        same = reference in (None, found)
        verdicts[row["source"], "right" if right and same else "WRONG"] += 1
        if not right:
            print(f"{row['id']}: WRONG\n  expected {turns}\n  labelled {texts}")
        if not same:
            print(f"{row['id']}: OTHER TOKENS\n  expected {reference}\n  read     {found}")
    for (source, verdict), count in sorted(verdicts.items()):
        print(f"{source:20} {verdict} {count:6}")
    wrong = sum(count for (_, verdict), count in verdicts.items() if verdict == "WRONG")
    failed = wrong > 0 or not len(rows) == len(references) == len(encoded)
    print(f"{'FAILED' if failed else 'PASSED'}: {wrong} of {len(encoded)} rows are wrong")
    return int(failed)


def _references(path: Path) -> list[Encoded]:
    return [Encoded(row["input_ids"], row["labels"]) for row in pq.read_table(path).to_pylist()]


def _trained_turns(row: dict[str, Any]) -> list[Turn]:
    return [
        Turn(
            _THINKING.sub("", message["content"] or "").strip(),
            tuple(call["function"]["name"] for call in message.get("tool_calls") or ()),
        )
        for message in row["messages"]
        if message["role"] == "assistant" and message.get("train") is not False
    ]


def _labelled_texts(row: Encoded, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each unbroken run of labelled tokens."""
    runs: list[list[int]] = []
    before = IGNORED
    for token, label in zip(row.ids, row.labels, strict=True):
        if label != IGNORED:
            if label != token:
                return [f"label {label} on token {token}"]
            if before == IGNORED:
                runs.append([])
            runs[-1].append(token)
        before = label
    return [tokenizer.decode(run, skip_special_tokens=False, clean_up_tokenization_spaces=False) for run in runs]


def _matches(text: str, turn: Turn, end: str) -> bool:
    if not text.endswith(end):
        return False
    body = _THINKING.sub("", text[: -len(end)]).strip()
    if turn.calls:
        return all(name in body for name in turn.calls)
    return body == turn.content
