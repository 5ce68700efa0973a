"""Turns of chats with tool calls found by marks inside the rendering of the whole chat.

The chat is rendered once more with a mark after each text and each called function's name, and before the texts of
users and tools. Without its marks this must be the chat's own rendering, character for character. A turn then begins
after the first generation prompt that follows the message before it, and ends with the last end-of-turn token before
the message after it. Templates that rewrite earlier turns once others follow, as Qwen3's does, are read this way.
"""

import re
from dataclasses import replace
from typing import Any

from spice_select.errors import TemplateError
from spice_select.pool.messages import Conversation, Message
from spice_select.pool.problems import RenderProblem
from spice_select.pool.templates import ChatTemplate

# Private-use characters: no white space to trim, no case, no meaning to any template.
_MARK = re.compile("\ue002([0-9]+)([se])\ue003")


def tool_chat_spans(template: ChatTemplate, chat: Conversation, end_of_turn: str) -> tuple[str, list[tuple[int, int]]]:
    """The chat as text, and the character span of each trained turn.

    Raises `RenderProblem` if the template refuses the chat, `TemplateError` where a turn cannot be found exactly.
    """
    text, marked = template.render(chat), template.render(replace(chat, messages=_marked(chat.messages)))
    if _MARK.sub("", marked) != text:
        raise _unclear("rewrites texts or names of functions")
    starts, firsts, lasts = _places(marked)
    spans: list[tuple[int, int]] = []
    for turn in chat.trained_turns():
        if turn == 0:
            raise RenderProblem("a chat that starts with an assistant's message and has tool calls cannot be used")
        if turn not in firsts or turn - 1 not in lasts:
            raise _unclear(f"leaves out message {turn + 1} (assistant) or the one before it")
        follows = turn + 1 < len(chat.messages)
        if follows and turn + 1 not in starts:
            raise _unclear(f"has no text of a user or tool after message {turn + 1} (assistant)")
        prompt = _generation_prompt(template, chat, turn)
        begin = text.find(prompt, lasts[turn - 1])
        close = text.rfind(end_of_turn, lasts[turn], starts[turn + 1] if follows else len(text))
        if not prompt.strip() or not end_of_turn or not 0 <= begin <= firsts[turn] - len(prompt) or close < 0:
            raise _unclear(f"writes message {turn + 1} (assistant) otherwise than its generation prompt begins a turn")
        spans.append((begin + len(prompt), close + len(end_of_turn)))
    return text, spans


def _marked(messages: list[Message]) -> list[Message]:
    return [_with_marks(message, place) for place, message in enumerate(messages)]


def _with_marks(message: Message, place: int) -> Message:
    out, end = dict(message), f"\ue002{place}e\ue003"
    content = out.get("content", "")
    core = content.strip()
    if core:
        at = content.index(core)
        start = "" if out["role"] == "assistant" else f"\ue002{place}s\ue003"
        out["content"] = content[:at] + start + core + end + content[at + len(core) :]
    if "tool_calls" in out:
        out["tool_calls"] = [_named(call, end) for call in out["tool_calls"]]
    return out


def _named(call: dict[str, Any], mark: str) -> dict[str, Any]:
    if "function" not in call:
        return {**call, "name": call["name"] + mark}
    return {**call, "function": {**call["function"], "name": call["function"]["name"] + mark}}


def _places(marked: str) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
    """Where each message's text starts, and its first and last marks, in characters of the text without marks."""
    starts, firsts, lasts = dict[int, int](), dict[int, int](), dict[int, int]()
    removed = 0
    for match in _MARK.finditer(marked):
        message, place = int(match[1]), match.start() - removed
        removed += len(match[0])
        if match[2] == "s":
            starts.setdefault(message, place)
        firsts.setdefault(message, place)
        lasts[message] = place
    return starts, firsts, lasts


def _generation_prompt(template: ChatTemplate, chat: Conversation, turn: int) -> str:
    """What the template writes before the model's part of a turn."""
    before = template.render(chat, until=turn)
    prompted = template.render(chat, until=turn, generation_prompt=True)
    if not prompted.startswith(before):
        raise _unclear("changes earlier messages when it asks for an answer")
    return prompted[len(before) :]


def _unclear(what: str) -> TemplateError:
    return TemplateError(
        f"The chat template {what}, in a chat with tool calls.\n"
        "The assistant's tokens cannot be determined; use a template with {% generation %} marks."
    )
