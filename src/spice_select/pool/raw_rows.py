"""Rows as read from their input, before their format is known."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from spice_select.pool.problems import TOO_DEEP, may_be_too_deep, too_deep

_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_KINDS: Mapping[type, str] = {
    list: "a list",
    dict: "an object",
    str: "text",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    type(None): "null",
}


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
