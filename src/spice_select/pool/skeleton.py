"""A chat rendered once with a mark in place of each message's text: what the template itself writes, and where.

Chats of the same shape (roles, extras, tools) share a skeleton. Filling a skeleton with a row's texts must
give exactly the row's own rendering; where it does, the place of every character is known, with one rendering
a row and whatever the texts hold, special tokens' text included.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise, zip_longest

from spice_select.errors import TemplateError
from spice_select.pool.messages import Conversation
from spice_select.pool.omissions import text_left_out
from spice_select.pool.problems import one_line
from spice_select.pool.templates import ChatTemplate
from spice_select.pool.turn_borders import TurnBorders

# Private-use characters: no white space to trim, no case, no meaning to any template.
_MARK = re.compile("\ue000([0-9]+)\ue001")


@dataclass(frozen=True, slots=True)
class Slot:
    """Place of one message's text; an assistant's starts where the model begins to write."""

    message: int  # index of the message
    start: int  # in characters of the skeleton's text
    end: int
    lead: str  # what the template writes between `start` and the text
    opens: str  # thinking that belongs to the header where a turn begins with it


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The rendering of one shape of chat: fixed text with slots, in the order of the text."""

    text: str
    slots: tuple[Slot, ...]

    def gaps(self) -> list[str]:
        """The fixed text before, between and after the slots; one more than there are slots."""
        borders = [0, *(place for slot in self.slots for place in (slot.start, slot.end)), len(self.text)]
        return [self.text[start:end] for start, end in list(pairwise(borders))[::2]]

    def fill(self, fills: Sequence[str]) -> str:
        """The text with one text in each slot."""
        return "".join(chain.from_iterable(zip_longest(self.gaps(), fills, fillvalue="")))


def build_skeleton(template: ChatTemplate, chat: Conversation, borders: TurnBorders) -> Skeleton:
    """The skeleton of a chat's shape.

    Raises `RenderProblem` if the template refuses it or leaves out a text, `TemplateError` if an assistant's text does
    not stand in it once.
    """
    hollow = _marked(chat, range(len(chat.messages)))
    text = template.render(hollow)
    found = [(int(match[1]), *match.span()) for match in _MARK.finditer(text)]
    for index, message in enumerate(hollow.messages):
        times = sum(index == number for number, _, _ in found)
        if message["role"] == "assistant" and times != 1:
            raise TemplateError(
                f"The chat template writes the text of message {index + 1} (assistant) {times} times instead of once, "
                "so its tokens cannot be determined.\nUse a template that writes every assistant message once."
            )
        if times == 0 and message["content"].strip():
            raise text_left_out(index + 1, message["role"])
    slots: list[Slot] = []
    for number, at, end in found:
        start, opens = at, ""
        if hollow.messages[number]["role"] == "assistant":
            shown = borders.start(hollow, _tail, number, text, slots[-1].end if slots else 0, at)
            if shown is None and number:
                raise TemplateError(
                    f"The chat template writes message {number + 1} (assistant) otherwise than its generation prompt "
                    "begins a turn.\nUse a template that begins every turn alike (--chat-template)."
                )
            _, start, opens = shown or (at, at, "")
        slots.append(Slot(number, start, end, text[start:at], opens))
    return Skeleton(text, tuple(slots))


def _tail(shown: str) -> str:
    return _MARK.split(shown)[-1]


def _marked(chat: Conversation, places: Iterable[int]) -> Conversation:
    """The chat with a mark in place of each of these texts; blank texts stay, since templates treat them apart."""
    messages = [dict(message) for message in chat.messages]
    for index in places:
        if messages[index].get("content", "").strip():
            messages[index]["content"] = f"\ue000{index}\ue001"
    return replace(chat, messages=messages)


def slot_texts(template: ChatTemplate, skeleton: Skeleton, chat: Conversation, text: str) -> list[str]:
    """What stands in each slot of a chat's rendering `text`; with it the skeleton gives exactly `text`.

    Raises `TemplateError` if the template rewrites the chat so that this cannot be found.
    """
    contents = [(slot.lead, chat.messages[slot.message]["content"]) for slot in skeleton.slots]
    kept = [lead + content for lead, content in contents]
    trimmed = [lead + content.strip() for lead, content in contents]
    for fills in (kept, trimmed):
        if skeleton.fill(fills) == text:
            return fills
    return _isolated_texts(template, skeleton, chat, text)


def _isolated_texts(template: ChatTemplate, skeleton: Skeleton, chat: Conversation, text: str) -> list[str]:
    """The slots' texts where the template rewrites some (drops earlier turns' thinking, trims some roles only).

    Each message is rendered among marks of the others, which shows exactly what becomes of it; together they
    must give `text`. If they do not, the change of one message depends on another: a `TemplateError`.
    """
    fills: list[str] = []
    for slot in skeleton.slots:
        others = (index for index in range(len(chat.messages)) if index != slot.message)
        alone = template.render(_marked(chat, others))
        before, after = skeleton.text[: slot.start], skeleton.text[slot.end :]
        if len(alone) < len(before) + len(after) or not (alone.startswith(before) and alone.endswith(after)):
            raise _rewritten(chat, slot.message, before, alone)
        fill = alone[len(before) : len(alone) - len(after)]
        if not fill.strip():
            role = chat.messages[slot.message]["role"]
            raise TemplateError(
                f"The chat template drops the text of message {slot.message + 1} ({role}).\n"
                "Use a template that keeps every turn."
            )
        fills.append(fill)
    if skeleton.fill(fills) != text:
        begins = accumulate(gap + fill for gap, fill in zip(skeleton.gaps(), fills, strict=False))
        differs = (
            slot.message for slot, begin in zip(skeleton.slots, begins, strict=True) if not text.startswith(begin)
        )
        raise _rewritten(chat, next(differs, skeleton.slots[-1].message), skeleton.fill(fills), text)
    return fills


def _rewritten(chat: Conversation, index: int, expected: str, text: str) -> TemplateError:
    pairs = enumerate(zip(expected, text, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(expected), len(text)))
    return TemplateError(
        f"The chat template rewrites the chat around message {index + 1} ({chat.messages[index]['role']}): "
        f"'{one_line(text[at : at + 40])}' stands where '{one_line(expected[at : at + 40])}' was expected.\n"
        "The assistant's tokens cannot be determined; use a template that keeps turns as they are, or one with "
        "{% generation %} marks."
    )
