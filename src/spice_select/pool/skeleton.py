"""A chat rendered once with a mark in place of each message's text: what the template itself writes, and
where.

Chats of the same shape (roles, extras, tools) share a skeleton. Filling a skeleton with a row's texts must
give exactly the row's own rendering; where it does, the place of every character is known, with one rendering
a row and whatever the texts hold, special tokens' text included.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spice_select.errors import TemplateError
from spice_select.pool.messages import Message
from spice_select.pool.problems import one_line
from spice_select.pool.templates import ChatTemplate

# Private-use characters: no white space to trim, no case, no meaning to any template.
_MARK = re.compile("\ue000([0-9]+)\ue001")


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one message's text stands in a skeleton.

    Attributes:
        message: index of the message.
        start, end: characters of the skeleton's text; for an assistant's message `start` is where the model
            begins to write, which may be before the text itself (a leading space, an empty thinking block).
        lead: what the template writes between `start` and the text.

    """

    message: int
    start: int
    end: int
    lead: str


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The rendering of one shape of chat: fixed text with slots, in the order of the text."""

    text: str
    slots: tuple[Slot, ...]

    def gaps(self) -> list[str]:
        """The fixed text before, between and after the slots; one more than there are slots."""
        starts = [slot.start for slot in self.slots] + [len(self.text)]
        ends = [0] + [slot.end for slot in self.slots]
        return [self.text[end:start] for end, start in zip(ends, starts, strict=True)]


def marked(messages: Sequence[Message]) -> list[Message]:
    """The chat with a mark in place of each text; blank texts stay, since templates treat them apart."""
    return [
        {**message, "content": f"\ue000{index}\ue001"} if message.get("content", "").strip() else dict(message)
        for index, message in enumerate(messages)
    ]


def build_skeleton(template: ChatTemplate, messages: Sequence[Message], tools: list[dict[str, Any]] | None) -> Skeleton:
    """The skeleton of a chat's shape.

    Raises:
        RenderProblem: the template refuses the shape.
        TemplateError: an assistant's text does not appear exactly once.

    """
    chat = marked(messages)
    text = template.render(chat, tools)
    found = [(int(match[1]), match.start(), match.end()) for match in _MARK.finditer(text)]
    for index, message in enumerate(chat):
        times = sum(index == number for number, _, _ in found)
        if message["role"] == "assistant" and times != 1:
            raise TemplateError(
                f"The chat template writes the text of message {index + 1} (assistant) {times} times instead of once, "
                "so its tokens cannot be told.\nUse a template that writes every assistant message once."
            )
    slots = [
        _assistant_slot(template, chat, tools, text, number, start, end)
        if chat[number]["role"] == "assistant"
        else Slot(number, start, end, "")
        for number, start, end in found
    ]
    return Skeleton(text, tuple(slots))


def _assistant_slot(
    template: ChatTemplate,
    chat: list[Message],
    tools: list[dict[str, Any]] | None,
    text: str,
    number: int,
    start: int,
    end: int,
) -> Slot:
    """The slot from where the generation prompt ends: the model writes all that follows.

    A template that ignores `add_generation_prompt` leaves its header to be written by nobody; then only white
    space before the text counts as the model's. The same holds where the prompt is no prefix of the chat
    (templates that open a thinking block in the prompt and leave it out of earlier turns).
    """
    if number == 0:
        return Slot(number, start, end, "")
    prompt = template.render(chat[:number], tools, generation_prompt=True)
    if not text.startswith(prompt) or len(prompt) > start:
        return Slot(number, start, end, "")
    lead = text[len(prompt) : start]
    if lead.strip() and template.render(chat[:number], tools) == prompt:
        return Slot(number, start, end, "")
    return Slot(number, len(prompt), end, lead)


def match_texts(skeleton: Skeleton, messages: Sequence[Message], text: str) -> list[str] | None:
    """What stands in each slot of a rendering, if that is the messages' texts, at most with white space
    trimmed.

    Returns:
        One text a slot, with which the skeleton gives exactly `text`; None if there is no such.

    """
    gaps = skeleton.gaps()
    if not text.startswith(gaps[0]):
        return None
    position = len(gaps[0])
    fills: list[str] = []
    for slot, after in zip(skeleton.slots, gaps[1:], strict=True):
        variants = (slot.lead + variant for variant in _trimmings(messages[slot.message]["content"]))
        fill = next((v for v in variants if text.startswith(v + after, position)), None)
        if fill is None:
            return None
        fills.append(fill)
        position += len(fill) + len(after)
    return fills if position == len(text) else None


def _trimmings(content: str) -> tuple[str, ...]:
    """The text, and the ways templates trim it, longest first."""
    if content.strip() == content:
        return (content,)
    forms = {content, content.strip(), content.lstrip(), content.rstrip()}
    forms |= {content.strip("\n"), content.lstrip("\n"), content.rstrip("\n")}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


def isolate_texts(
    template: ChatTemplate,
    skeleton: Skeleton,
    messages: Sequence[Message],
    tools: list[dict[str, Any]] | None,
    text: str,
) -> list[str]:
    """What stands in each slot where the template rewrites texts (drops earlier turns' thinking, say).

    Each message is rendered among marks of the others, which shows exactly what becomes of it; together they
    must give `text`.

    Raises:
        TemplateError: what the template does to one message cannot be told from what it does to the others.

    """
    marks = marked(messages)
    fills: list[str] = []
    for slot in skeleton.slots:
        chat = [*marks[: slot.message], messages[slot.message], *marks[slot.message + 1 :]]
        alone = template.render(chat, tools)
        before, after = skeleton.text[: slot.start], skeleton.text[slot.end :]
        if len(alone) < len(before) + len(after) or not (alone.startswith(before) and alone.endswith(after)):
            raise _rewritten(messages, slot.message, before, alone)
        fill = alone[len(before) : len(alone) - len(after)]
        if not fill.strip():
            raise TemplateError(
                f"The chat template drops the text of message {slot.message + 1} ({messages[slot.message]['role']}).\n"
                "Use a template that keeps every turn."
            )
        fills.append(fill)
    gaps = skeleton.gaps()
    rebuilt = gaps[0] + "".join(fill + gap for fill, gap in zip(fills, gaps[1:], strict=True))
    if rebuilt != text:
        raise _rewritten(messages, _slot_at_difference(skeleton, fills, text), rebuilt, text)
    return fills


def _slot_at_difference(skeleton: Skeleton, fills: list[str], text: str) -> int:
    """The message in, or before, whose text the rebuilt chat first differs from `text`."""
    position = 0
    for slot, fill, gap in zip(skeleton.slots, fills, skeleton.gaps(), strict=False):
        if not text.startswith(gap + fill, position):
            return slot.message
        position += len(gap) + len(fill)
    return skeleton.slots[-1].message


def _rewritten(messages: Sequence[Message], index: int, expected: str, text: str) -> TemplateError:
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, text, strict=False)) if a != b),
        min(len(expected), len(text)),
    )
    return TemplateError(
        f"The chat template rewrites the chat around message {index + 1} ({messages[index]['role']}): "
        f"'{one_line(text[at : at + 40])}' stands where '{one_line(expected[at : at + 40])}' was expected.\n"
        "The assistant's tokens cannot be told exactly; use a template that keeps turns as they are, or one with "
        "{% generation %} marks."
    )
