"""What stands before the model's part of a turn, and what ends it.

The model's part begins where the template's generation prompt ends. Prompts may open a thinking block that the template
leaves out of turns without thinking; those begin after the rest of the prompt.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from spice_select.pool.messages import Conversation
from spice_select.pool.templates import ChatTemplate

PROBE = Conversation([{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}])
"""The smallest chat."""

_THINKING_OPENED = re.compile(r"([<\[][^<>\[\]]*(think|thought)[^<>\[\]]*[>\]]\s*)+$", re.IGNORECASE)


class Start(NamedTuple):
    """Where the model's part of a turn begins."""

    header: int  # where the text of the turn's header begins
    end: int  # where it ends, which is where the model's part begins
    opens: str  # thinking that the generation prompt opens there, left out of this turn


class TurnBorders:
    """The borders of turns under one template."""

    def __init__(self, template: ChatTemplate) -> None:
        """Learn the headers from the smallest chat. Raises `RenderProblem` if the template refuses that."""
        text, before = template.render(PROBE), template.render(PROBE, until=1)
        prompted = template.render(PROBE, until=1, generation_prompt=True)
        self._template = template
        self._prompt = prompted[len(before) :] if prompted.startswith(before) else ""
        answer = text.find("answer", len(before))
        header = text[len(before) : answer] if text.startswith(before) and answer >= 0 else ""
        # For a first turn, and for templates that write no prompt, or none after a tool's answer.
        own = [self._prompt, _without_thinking(self._prompt)] if self._prompt.strip() else [header]
        self._headers = [header for header in own if header.strip()]

    def start(
        self, marked: Conversation, tail: Callable[[str], str], turn: int, text: str, begin: int, limit: int
    ) -> Start | None:
        """Where in a chat's rendering `text` the model's part of a turn begins; None if the text does not show it.

        `marked` is the chat with marks, of which `tail` gives what follows the last one in a rendering. `begin` is the
        place of the last one before the turn: from there the text must go on as it does with a generation prompt after
        the same messages, so that nothing said in the chat can move a border. `limit` is the place of the turn's first
        mark. Raises `RenderProblem` if the template refuses the messages before the turn.
        """
        if turn == 0:
            return _first(text, 0, limit, self._headers)
        prompted = tail(self._template.render(marked, until=turn, generation_prompt=True))
        own = self._prompt
        if not (own.strip() and prompted.endswith(own)):
            closing = tail(self._template.render(marked, until=turn))
            own = prompted[len(closing) :] if prompted.startswith(closing) else ""
        closing = prompted[: len(prompted) - len(own)]
        if own.strip():
            for header in (own, _without_thinking(own)):
                if text.startswith(closing + header, begin):
                    at = begin + len(closing)
                    return Start(at, at + len(header), own[len(header) :])
            return _first(text, begin, limit, [own])  # a text closes otherwise where it is the chat's last
        if not text.startswith(prompted, begin):
            return None
        at = begin + len(prompted)
        return Start(at, at + len(next((h for h in self._headers if text.startswith(h, at, limit)), "")), "")

    def after_header(self, chat: Conversation, turn: int, text: str, start: int, end: int) -> int:
        """The `start` of a block [start, end) that the template tags, moved behind what it holds of the turn's header.

        Raises `RenderProblem` if the template refuses the messages before the turn.
        """
        headers = self._headers
        if turn:
            prompted = self._template.render(chat, until=turn, generation_prompt=True)
            if start < len(prompted) < end and text.startswith(prompted):
                return len(prompted)
            before = self._template.render(chat, until=turn)
            own = prompted[len(before) :] if prompted.startswith(before) else ""
            headers = [own, _without_thinking(own)] if own.strip() else headers
        for header in headers:
            at = text.find(header, max(0, start - len(header)), start + len(header))
            if 0 <= at <= start < at + len(header):
                return at + len(header)
        return start

    def header_is_apart(self, text: str, start: int) -> bool:
        """Whether in the smallest chat's rendering `text` a tagged block from `start` follows a whole prompt."""
        return bool(self._prompt.strip()) and text[:start].endswith(self._prompt)


def end_of_turn(template: ChatTemplate, last: str, earlier: str) -> str:
    """The text that closes an assistant's turn, from what follows the last turn of a chat and an earlier one.

    The first special token after the last turn, and those next to it that follow earlier turns as well. Without a
    special token it is that text less its trailing white space, which may leave nothing.
    """
    special = template.specials.search(last)
    if special is None:
        return last.rstrip()
    end = special.end()
    while (more := template.specials.match(last, end)) and earlier.startswith(last[: more.end()]):
        end = more.end()
    return last[:end]


def other_end(template: ChatTemplate, text: str, begin: int, limit: int) -> int | None:
    """The end of a special token at `begin` that closes a turn, as gpt-oss's earlier turns are; None without one.

    Another special token must follow at once, or the first would be the header of the next turn.
    """
    token = template.specials.match(text, begin, limit)
    if token is None:
        return None
    rest = text[token.end() : limit].lstrip()
    return token.end() if template.specials.match(rest) else None


def _without_thinking(prompt: str) -> str:
    return _THINKING_OPENED.sub("", prompt)


def _first(text: str, begin: int, limit: int, headers: list[str]) -> Start | None:
    """The header that stands first in text[begin:limit], of equal places the one listed first."""
    found = [(at, n, at + len(h)) for n, h in enumerate(headers) if (at := text.find(h, begin, limit)) >= 0]
    return Start(min(found)[0], min(found)[2], "") if found else None
