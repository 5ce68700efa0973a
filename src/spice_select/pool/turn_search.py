"""Turns found by sentinels inside the rendering of the whole chat, where the chat's skeleton does not show them.

The chat is rendered once more with sentinels after each text and each called function's name, and before the texts of
users and tools. Without its sentinels this must be the chat's own rendering, character for character. A turn begins
after the first generation prompt that follows the message before it, and ends with the last end-of-turn token before
the message after it. Templates that rewrite earlier turns once others follow, as Qwen3's does, are read this way.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

from spice_select.errors import TemplateError
from spice_select.pool.messages import Conversation, Message
from spice_select.pool.omissions import calls_left_out
from spice_select.pool.problems import RenderProblem
from spice_select.pool.templates import ChatTemplate
from spice_select.pool.turn_borders import start_of_turn

# Private-use characters: no white space to trim, no case, no meaning to any template.
_SENTINEL = re.compile("\ue002([0-9]+)([sec])([0-9]*)\ue003")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where sentinels show a message, in characters of the text without them."""

    first: int  # where its first sentinel stands
    last: int  # where its last one stands


def search_turns(template: ChatTemplate, chat: Conversation, ending: str) -> tuple[str, list[tuple[int, int]]]:
    """The chat as text, and the character span of each trained turn; `ending` closes the last turn of a chat.

    Raises `RenderProblem` if the template refuses the chat, `TemplateError` where a turn cannot be found exactly.
    """
    text, marked = template.render(chat), chat
    for beside_calls in (True, False):
        marked = replace(chat, messages=_marked(chat.messages, beside_calls))
        shown = template.render(marked)
        if _SENTINEL.sub("", shown) == text:
            break
    else:
        raise _unclear("rewrites texts or names of functions")
    places = _places(shown, chat.messages)
    return text, [
        (_start(template, chat, text, places, turn), _end(template, marked, text, places, turn, ending))
        for turn in chat.trained_turns()
    ]


def _start(template: ChatTemplate, chat: Conversation, text: str, places: list[_Place], turn: int) -> int:
    """Where the model's part of a turn begins."""
    if turn == 0:
        raise RenderProblem("a chat that starts with an assistant's message cannot be used with this template")
    found = start_of_turn(template, chat, turn, text, places[turn - 1].last, places[turn].first)
    if found is None:
        raise _unclear(f"writes message {turn + 1} (assistant) otherwise than its generation prompt begins a turn")
    return found[0]


def _end(template: ChatTemplate, marked: Conversation, text: str, places: list[_Place], turn: int, ending: str) -> int:
    """Where the token that ends a turn ends; `marked` is the chat with sentinels."""
    begin = places[turn].last
    limit = places[turn + 1].first if turn + 1 < len(places) else len(text)
    close = text.rfind(ending, begin, limit) if ending else -1
    if close >= 0:
        return close + len(ending)
    # Another token than a chat's last one ends this turn: after a call, or wherever a chat goes on (gpt-oss).
    tail = _SENTINEL.split(template.render(marked, until=turn + 1))[-1].rstrip()
    if (tail or not ending) and begin + len(tail) <= limit and text.startswith(tail, begin):
        return begin + len(tail)
    token = template.specials.match(text, begin, limit)
    if token and "tool_calls" not in marked.messages[turn] and template.specials.search(text, token.end(), limit):
        return token.end()
    raise _unclear(f"does not show where message {turn + 1} (assistant) ends")


def _marked(messages: list[Message], beside_calls: bool) -> list[Message]:
    """The messages with sentinels; in texts beside calls only if wished, as templates may take them for an answer."""
    return [_with_sentinels(message, place, beside_calls) for place, message in enumerate(messages)]


def _with_sentinels(message: Message, place: int, beside_calls: bool) -> Message:
    out, start, end = dict(message), f"\ue002{place}s\ue003", f"\ue002{place}e\ue003"
    content, calls = out.get("content", ""), out.get("tool_calls", [])
    core = content.strip()
    if out["role"] == "assistant":
        start = ""
    if start or (core and (beside_calls or not calls)):
        at = content.index(core)
        out["content"] = content[:at] + start + core + end + content[at + len(core) :]
    if calls:
        out["tool_calls"] = [_named(call, f"\ue002{place}c{n}\ue003") for n, call in enumerate(calls)]
    return out


def _named(call: dict[str, Any], sentinel: str) -> dict[str, Any]:
    if "function" not in call:
        return {**call, "name": call["name"] + sentinel}
    return {**call, "function": {**call["function"], "name": call["function"]["name"] + sentinel}}


def _places(marked: str, messages: list[Message]) -> list[_Place]:
    """The places of all messages; each must lie as a whole between those before and after it."""
    found: dict[str, tuple[int, int]] = {}  # a tool's answer may name its function again: the first one counts
    removed = 0
    for match in _SENTINEL.finditer(marked):
        if match[0] in found and match[2] != "c":
            raise _unclear(f"writes the text of message {int(match[1]) + 1} several times")
        found.setdefault(match[0], (int(match[1]), match.start() - removed))
        removed += len(match[0])
    order = list(found.values())
    if [message for message, _ in order] != sorted(message for message, _ in order):
        raise _unclear("writes a message in parts, with another one between them")
    places: list[_Place] = []
    for number, message in enumerate(messages):
        if any(f"\ue002{number}c{n}\ue003" not in found for n in range(len(message.get("tool_calls", [])))):
            raise calls_left_out(number + 1)
        at = [place for owner, place in order if owner == number]
        if not at:
            raise _unclear(f"leaves out message {number + 1}")
        places.append(_Place(at[0], at[-1]))
    return places


def _unclear(what: str) -> TemplateError:
    return TemplateError(
        f"The chat template {what}, so the assistant's tokens cannot be determined.\n"
        "Use a template that keeps turns as they are, or one with {% generation %} marks (--chat-template)."
    )
