#!/usr/bin/env python3
"""Make examples/pool.jsonl: 360 chat rows on which a run of spice-select has something to find.

    python3 examples/make_pool.py [FILE]

300 rows are plain. 36 are near-duplicates: another row's question in other words, with the same answer. 24 are
contradictions: another row's question with a wrong answer. The field `kind` says which, and `of` names the other row.
The same seed writes the same bytes, on every platform and Python from 3.11 on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

from material.tasks import Item, Message, chat, chats, code_tasks, facts, rewriting, word_problems

SEED = 2026
SINGLE_TURN = {
    "word-problems": (word_problems, 54),
    "code": (code_tasks, 40),
    "facts": (facts, 104),
    "rewriting": (rewriting, 80),
}
CHATS = 22
NEAR_DUPLICATES = 36
CONTRADICTIONS = {"word-problems": 10, "code": 6, "facts": 8}

# A short system turn a source; without one many chat templates put in a longer sentence of their own.
SYSTEM = {
    "word-problems": "Show your working.",
    "code": "Write plain Python.",
    "facts": "Answer briefly.",
    "rewriting": "Keep the meaning.",
    "chats": "Be helpful.",
}

Row = dict[str, Any]


def row(source: str, messages: list[Message], kind: str = "plain", of: Row | None = None) -> Row:
    """Make a row; `of` is the row it copies or contradicts and is replaced by that row's id at the end."""
    return {"id": "", "source": source, "kind": kind, "of": of, "messages": messages}


def prompt(candidate: Row) -> str:
    """Return the text of a row's first question."""
    return next(message["content"] for message in candidate["messages"] if message["role"] == "user")


def single_turn_rows(rng: Random) -> list[tuple[Row, Item]]:
    """Draw the plain single-turn rows, no question twice, each with the item it came from."""
    drawn: list[tuple[Row, Item]] = []
    for source, (makers, count) in SINGLE_TURN.items():
        items, asked = makers(rng), set[str]()
        while len(asked) < count:
            item = next(items)
            if item.asks[0] not in asked:
                asked.add(item.asks[0])
                drawn.append((row(source, chat(rng.choice(item.asks), item.answer)), item))
    return drawn


def chat_rows(rng: Random) -> list[Row]:
    """Draw the chats, no first question twice."""
    by_question: dict[str, Row] = {}
    for messages in chats(rng):
        candidate = row("chats", messages)
        by_question.setdefault(prompt(candidate), candidate)
        if len(by_question) == CHATS:
            break
    return list(by_question.values())


def echoes(drawn: list[tuple[Row, Item]], rng: Random) -> list[Row]:
    """Make the near-duplicates and the contradictions, each of a row of its own."""
    duplicated = rng.sample(drawn, NEAR_DUPLICATES)
    taken = {id(original) for original, _ in duplicated}
    made: list[Row] = []
    for original, item in duplicated:
        other = next(ask for ask in item.asks if ask != prompt(original))
        made.append(row(original["source"], chat(other, item.answer), "near-duplicate", original))
    for source, count in CONTRADICTIONS.items():
        open_to = [pair for pair in drawn if pair[0]["source"] == source and pair[1].wrong and id(pair[0]) not in taken]
        for original, item in rng.sample(open_to, count):
            made.append(row(source, chat(rng.choice(item.asks), str(item.wrong)), "contradiction", original))
    return made


def build(seed: int = SEED) -> list[Row]:
    """Build the pool's rows, shuffled and numbered."""
    rng = Random(seed)
    drawn = single_turn_rows(rng)
    rows = [original for original, _ in drawn] + chat_rows(rng) + echoes(drawn, rng)
    rng.shuffle(rows)
    for number, entry in enumerate(rows, start=1):
        entry["id"] = f"example-{number:03d}"
    for entry in rows:
        entry["of"] = entry["of"] and entry["of"]["id"]
        if entry["messages"][0]["role"] != "system":
            entry["messages"] = [{"role": "system", "content": SYSTEM[entry["source"]]}, *entry["messages"]]
    return rows


def main() -> None:
    """Write the pool to the file named on the command line, or beside this script."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("pool.jsonl")
    lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in build())
    target.write_bytes("".join(lines).encode())


if __name__ == "__main__":
    main()
