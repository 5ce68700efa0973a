"""One row as it was read, and what may be wrong with it.

A `RowProblem` never reaches a user: `read_pool` turns it into a `Rejection`, or into the text of a `PoolError`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

MAX_DEPTH = 100
"""Most levels of lists and objects inside each other in a row; tool schemas have about ten."""
TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"

_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_KINDS: Mapping[type, str] = {
    list: "a list", dict: "an object", str: "text", bool: "a truth value", int: "a number", float: "a number",
    type(None): "null",
}  # fmt: skip


class RowProblem(Exception):  # noqa: N818 - it is an event in the data, not an error of the program
    """A short reason, naming the field, why one row cannot be trained on."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MarkedRow(RowProblem):
    """The row's own data says that nothing of it is to be learnt: it is left out, and no mistake."""


class RenderProblem(RowProblem):
    """The row is well formed, but the chat template or the tokenizer refuses it."""


def one_line(text: str, limit: int = 200) -> str:
    """`text` with every run of white space made one space, cut to `limit` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def too_deep(value: object, levels: int = MAX_DEPTH) -> bool:
    """Whether more than `levels` levels of lists and mappings lie inside `value`, as in one that holds itself."""
    if isinstance(value, Mapping):
        inner: Iterable[object] = cast("Mapping[object, object]", value).values()
    elif isinstance(value, list | tuple):
        inner = cast("list[object]", value)
    else:
        return False
    return levels < 0 or any(too_deep(item, levels - 1) for item in inner)


def may_be_too_deep(text: str) -> bool:
    """Whether JSON text opens enough brackets to be `too_deep`: a quick test without false negatives."""
    return text.count("[") + text.count("{") > MAX_DEPTH


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as read."""

    number: int  # 1-based place among the rows of its file (blank lines are not rows)
    data: dict[str, Any] | None  # the row's fields, or None where it could not be parsed
    text: str = ""  # what could not be parsed
    problem: str = ""  # why it could not be parsed
    line: int = 0  # 1-based line of a text file where it differs from `number`


def raw_row(number: int, value: object, json_text: str | None = None, line: int = 0) -> RawRow:
    """The row of a parsed value, or why that is none; `json_text` is the text that it was parsed from, if any."""
    problem, text = "", json_text or ""
    if not isinstance(value, Mapping):
        problem, text = f"is {kind_of(value)}, not an object of fields", text or repr(value)
    elif (json_text is None or may_be_too_deep(json_text)) and too_deep(cast(object, value)):
        problem = TOO_DEEP
    # Only a \ud8xx escape can bring a lone surrogate in, and only then is the whole row worth another search.
    elif "\\ud" in text.lower() and _LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        problem = "holds half of a surrogate pair (a broken \\u escape)"
    if problem:
        return RawRow(number, None, text, problem, line)
    return RawRow(number, dict(cast("Mapping[str, Any]", value)), line=line)


def kind_of(value: object) -> str:
    """A JSON value's kind in words, of any other value its type."""
    return _KINDS.get(type(value), type(value).__name__)
