"""What a chat template leaves out of a chat without a word: tool calls, a system prompt, a turn, thinking parts.

Templates that know no tools write an empty turn in place of a call, which would teach the model to say nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from spice_select.pool.messages import Conversation
from spice_select.pool.problems import RenderProblem
from spice_select.pool.sentinels import BY_IDS, BY_NAMES, SENTINEL, called, with_sentinels
from spice_select.pool.templates import ChatTemplate

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message in which data keeps an answer's reasoning; a template reads one of them, or none."""


def tags_show_all(template: ChatTemplate, chat: Conversation) -> bool:
    """Whether each block that the template tags holds something of its own assistant's message.

    Raises `RenderProblem` if the rendering lacks a tool call, or the text of a message that is no assistant's.
    """
    shown = [
        template.render_tagged(replace(chat, messages=with_sentinels(chat.messages, way))) for way in (BY_NAMES, BY_IDS)
    ]
    calls = called(shown[0][0]) | called(shown[1][0])
    texts = {int(match[1]) for text, _ in shown for match in SENTINEL.finditer(text) if match[2] == "e"}
    for number, message in enumerate(chat.messages):
        if any((number, call) not in calls for call in range(len(message.get("tool_calls", [])))):
            raise calls_left_out(number + 1)
        if message["role"] != "assistant" and message["content"].strip() and number not in texts:
            raise text_left_out(number + 1, message["role"])
    turns = [number for number, message in enumerate(chat.messages) if message["role"] == "assistant"]
    return any(
        len(blocks) == len(turns)
        and all(
            {int(match[1]) for match in SENTINEL.finditer(text, start, end)} == {turn}
            for turn, (start, end) in zip(turns, blocks, strict=True)
        )
        for text, blocks in shown
    )


def calls_left_out(number: int) -> RenderProblem:
    """The refusal of a chat whose message `number` (from 1) calls tools that the rendering lacks."""
    return RenderProblem(
        f"the chat template leaves out the tool calls of message {number}; use a model whose template writes tool calls"
    )


def text_left_out(number: int, role: str) -> RenderProblem:
    """The refusal of a chat whose message `number` (from 1) the rendering lacks."""
    return RenderProblem(f"the chat template leaves out the text of message {number} ({role})")


def missing_characters(chat: Conversation, text: str, spans: Sequence[tuple[int, int]]) -> int:
    """How many characters of the trained answers, their reasoning included, their part of the rendering lacks.

    Of an answer that is not there as a whole, those of the lines that are not.
    """
    missing = 0
    for turn, (start, end) in zip(chat.trained_turns(), spans, strict=True):
        message = chat.messages[turn]
        for part in {message.get("content", ""), *_reasoning(message)}:
            if text.find(part.strip(), start, end) < 0:
                lines = part.splitlines(keepends=True)
                missing += max(1, sum(len(line) for line in lines if text.find(line.strip(), start, end) < 0))
    return missing


def answer_characters(message: Mapping[str, Any]) -> int:
    """How many characters an assistant's text and reasoning have."""
    return len(message.get("content", "")) + sum(map(len, _reasoning(message)))


def _reasoning(message: Mapping[str, Any]) -> set[str]:
    found = (message.get(name) for name in REASONING)
    return {part for part in found if isinstance(part, str) and part.strip()}
