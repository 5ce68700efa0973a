"""Sentinels in a chat's messages: marks of private-use characters that show where a template writes what."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from spice_select.pool.messages import Message

# No white space to trim, no case, no meaning to any template. Message, kind (start, end, call), number of the call.
SENTINEL = re.compile("\ue002([0-9]+)([sec])([0-9]*)\ue003")


class Way(NamedTuple):
    """Where sentinels stand; a template may change what it writes for some of them."""

    before_answers: bool  # before assistants' texts, from which templates may take thinking parts
    beside_calls: bool  # in assistants' texts beside calls, which sentinels could turn from blank to text
    in_ids: bool  # after the ids of calls instead of the names of functions


WAYS = (
    Way(True, True, False), Way(False, True, False), Way(False, False, False),
    Way(True, True, True), Way(False, False, True),
)  # fmt: skip


BY_NAMES, BY_IDS = WAYS[1], WAYS[-1]
"""The ways that show calls by the names of functions, with all texts, and by their ids, with texts as they may be."""


def with_sentinels(messages: Sequence[Message], way: Way) -> list[Message]:
    """The messages with sentinels around their texts and after the names, or ids, of called functions."""
    ids = {
        call["id"]: f"{call['id']}{_call(place, number)}"
        for place, message in enumerate(messages)
        for number, call in enumerate(message.get("tool_calls", []))
        if way.in_ids and isinstance(call.get("id"), str)
    }
    return [_marked(message, place, way, ids) for place, message in enumerate(messages)]


def called(shown: str) -> set[tuple[int, int]]:
    """The calls, as message and number of the call, whose sentinels a rendering shows."""
    return {(int(match[1]), int(match[3])) for match in SENTINEL.finditer(shown) if match[2] == "c"}


def _marked(message: Message, place: int, way: Way, ids: dict[str, str]) -> Message:
    out, start, end = dict(message), f"\ue002{place}s\ue003", f"\ue002{place}e\ue003"
    content, calls = out.get("content", ""), out.get("tool_calls", [])
    core = content.strip()
    answers = out["role"] == "assistant"
    if not answers or (core and (way.beside_calls or not calls)):
        at = content.index(core)
        first = start if way.before_answers or not answers else ""
        out["content"] = content[:at] + first + core + end + content[at + len(core) :]
    if calls:
        out["tool_calls"] = [_marked_call(call, _call(place, n), ids) for n, call in enumerate(calls)]
    if out.get("tool_call_id") in ids:
        out["tool_call_id"] = ids[out["tool_call_id"]]
    return out


def _marked_call(call: dict[str, Any], sentinel: str, ids: dict[str, str]) -> dict[str, Any]:
    if ids:
        return {**call, "id": ids[call["id"]]} if call.get("id") in ids else call
    if "function" not in call:
        return {**call, "name": call["name"] + sentinel}
    return {**call, "function": {**call["function"], "name": call["function"]["name"] + sentinel}}


def _call(place: int, number: int) -> str:
    return f"\ue002{place}c{number}\ue003"
