"""Turns found by sentinels inside the rendering of the whole chat, where the chat's skeleton does not show them.

The chat is rendered once more with sentinels around each text and after each called function's name. Without its
sentinels this must be the chat's own rendering, character for character. A turn begins after the generation prompt that
follows the message before it; after its last sentinel it goes on as when it is the chat's last turn. Templates that
rewrite earlier turns once others follow, as Qwen3's does, are read this way.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from spice_select.errors import TemplateError
from spice_select.pool.messages import Conversation, Message
from spice_select.pool.omissions import calls_left_out, text_left_out
from spice_select.pool.problems import RenderProblem
from spice_select.pool.sentinels import SENTINEL, WAYS, called, with_sentinels
from spice_select.pool.templates import ChatTemplate
from spice_select.pool.turn_borders import Start, TurnBorders, other_end


@dataclass(frozen=True, slots=True)
class _Place:
    """Where sentinels show a message, in characters of the text without them."""

    first: int
    last: int


class TurnSearch:
    """Finds turns under one template."""

    def __init__(self, template: ChatTemplate, borders: TurnBorders, ending: str) -> None:
        """`ending` closes the last turn of a chat."""
        self._template, self._borders, self._ending = template, borders, ending

    def turns(self, chat: Conversation) -> tuple[str, list[tuple[int, int]]]:
        """The chat as text, and the character span of each trained turn.

        Raises `RenderProblem` if the template refuses the chat or leaves something out, `TemplateError` where a turn
        cannot be found exactly.
        """
        text = self._template.render(chat)
        marked, places = self._places(chat, text)
        return text, [self._span(marked, text, places, turn) for turn in chat.trained_turns()]

    def _places(self, chat: Conversation, text: str) -> tuple[Conversation, list[_Place]]:
        """The chat with sentinels, and where they show its messages."""
        left_out: RenderProblem | None = None
        for way in WAYS:
            marked = replace(chat, messages=with_sentinels(chat.messages, way))
            shown = self._template.render(marked)
            if SENTINEL.sub("", shown) != text:
                continue
            try:
                return marked, _places(shown, chat.messages)
            except RenderProblem as problem:  # names of functions may be missing and their ids there (Kimi K2)
                left_out = problem
        raise left_out or _unclear("rewrites texts or names of functions")

    def _span(self, marked: Conversation, text: str, places: list[_Place], turn: int) -> tuple[int, int]:
        start = self._start(marked, text, places, turn)
        if start is None:
            raise _unclear(f"writes message {turn + 1} (assistant) otherwise than its generation prompt begins a turn")
        limit = len(text)
        if turn + 1 < len(places):
            limit = places[turn + 1].first
            if marked.messages[turn + 1]["role"] == "assistant":
                following = self._start(marked, text, places, turn + 1)
                limit = limit if following is None else following.header
        return start.end, self._end(marked, text, places[turn].last, limit, turn)

    def _start(self, marked: Conversation, text: str, places: list[_Place], turn: int) -> Start | None:
        begin = places[turn - 1].last if turn else 0
        return self._borders.start(marked, _tail, turn, text, begin, places[turn].first)

    def _end(self, marked: Conversation, text: str, begin: int, limit: int, turn: int) -> int:
        """Where the token that ends a turn ends; `begin` is the place of its last sentinel."""
        tail = _tail(self._template.render(marked, until=turn + 1))
        close = tail.rfind(self._ending) + len(self._ending) if self._ending and self._ending in tail else len(tail)
        # Behind the end-of-turn token there may be a token that ends the chat.
        if self._template.specials.sub("", tail[close:]).strip():
            close = len(tail)
        tail = tail[:close].rstrip()
        if (tail or not self._ending) and begin + len(tail) <= limit and text.startswith(tail, begin):
            return begin + len(tail)
        if "tool_calls" not in marked.messages[turn]:
            if self._ending and text.startswith(self._ending, begin, limit):
                return begin + len(self._ending)
            if (end := other_end(self._template, text, begin, limit)) is not None:
                return end
        raise _unclear(f"does not show where message {turn + 1} (assistant) ends")


def _places(shown: str, messages: Sequence[Message]) -> list[_Place]:
    """The places of all messages; each must lie as a whole between those before and after it."""
    order = list(_in_order(shown))
    if [message for message, _ in order] != sorted(message for message, _ in order):
        raise _unclear("writes a message in parts, with another one between them")
    places: list[_Place] = []
    written = called(shown)
    for number, message in enumerate(messages):
        if any((number, call) not in written for call in range(len(message.get("tool_calls", [])))):
            raise calls_left_out(number + 1)
        at = [place for owner, place in order if owner == number]
        if not at:
            raise text_left_out(number + 1, message["role"])
        places.append(_Place(at[0], at[-1]))
    return places


def _in_order(shown: str) -> Iterator[tuple[int, int]]:
    """Number of the message and place of every sentinel; a call's counts once: a tool's answer may name it again."""
    found, removed = set[str](), 0
    for match in SENTINEL.finditer(shown):
        if match[0] not in found:
            yield int(match[1]), match.start() - removed
        elif match[2] != "c":
            raise _unclear(f"writes the text of message {int(match[1]) + 1} several times")
        found.add(match[0])
        removed += len(match[0])


def _tail(shown: str) -> str:
    """What follows the last sentinel of a rendering, not counting those that stood before."""
    last = {match[0]: match.end() for match in reversed(list(SENTINEL.finditer(shown)))}
    return SENTINEL.sub("", shown[max(last.values(), default=0) :])


def _unclear(what: str) -> TemplateError:
    return TemplateError(
        f"The chat template {what}, so the assistant's tokens cannot be determined.\n"
        "Use a template that keeps turns as they are, or one with {% generation %} marks (--chat-template)."
    )
