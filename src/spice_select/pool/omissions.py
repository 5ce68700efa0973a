"""What a chat template leaves out of a chat without a word: tool calls, a system prompt, a turn, thinking parts.

Templates that know no tools write an empty turn in place of a call, which would teach the model to say nothing.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from spice_select.pool.messages import Conversation
from spice_select.pool.problems import RenderProblem

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message in which data keeps an answer's reasoning; a template reads one of them, or none."""

_BEGINNING = 60  # characters of a text by which it is found; templates may trim its ends, or escape what follows


def refuse_omissions(chat: Conversation, text: str, spans: Sequence[tuple[int, int]] | None) -> None:
    """Raise `RenderProblem` if the rendering `text` lacks a tool call, or the text of a message that is no assistant's.

    `spans` are those of the trained turns, None where they are unknown. Of assistants, the masks are verified against
    their whole texts.
    """
    places = {} if spans is None else dict(zip(chat.trained_turns(), spans, strict=True))
    for number, message in enumerate(chat.messages, start=1):
        start, end = places.get(number - 1, (0, len(text)))
        for call in message.get("tool_calls", ()):
            if _function(call)["name"] not in text[start:end]:
                raise calls_left_out(number)
        if message["role"] != "assistant" and not _stands_in(message.get("content", ""), text):
            raise RenderProblem(f"the chat template leaves out the text of message {number} ({message['role']})")


def calls_left_out(number: int) -> RenderProblem:
    """The refusal of a chat whose message `number` (from 1) calls tools that the rendering lacks."""
    return RenderProblem(
        f"the chat template leaves out the tool calls of message {number}; use a model whose template writes tool calls"
    )


def missing_characters(chat: Conversation, text: str, spans: Sequence[tuple[int, int]]) -> int:
    """How many characters of the trained answers, their reasoning included, their part of the rendering lacks."""
    missing = 0
    for turn, (start, end) in zip(chat.trained_turns(), spans, strict=True):
        message = chat.messages[turn]
        content = message.get("content", "").strip()
        if content and text.find(content, start, end) < 0:
            missing += max(1, len(content) - (end - start))
        missing += sum(len(part) for part in _reasoning(message) if text.find(part.strip(), start, end) < 0)
    return missing


def answer_characters(message: Mapping[str, Any]) -> int:
    """How many characters an assistant's text and reasoning have."""
    return len(message.get("content", "")) + sum(map(len, _reasoning(message)))


def _reasoning(message: Mapping[str, Any]) -> set[str]:
    found = (message.get(name) for name in REASONING)
    return {part for part in found if isinstance(part, str) and part.strip()}


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    return call.get("function", call)


def _stands_in(content: str, text: str) -> bool:
    beginning = content.strip()[:_BEGINNING].rstrip()
    # Some templates write a tool's answer as JSON text, in which quotes and line breaks are escaped.
    return (
        beginning in text
        or json.dumps(beginning)[1:-1] in text
        or json.dumps(beginning, ensure_ascii=False)[1:-1] in text
    )
