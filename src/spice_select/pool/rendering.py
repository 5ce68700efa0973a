"""Chats to text with the exact character spans that are the assistant's: the rule that every mask rests on.

Trained is what the model itself has to write: from where the template's generation prompt ends, through the
turn's text, to the end of its end-of-turn token. Headers, the white space after the end-of-turn token, and
every other role are not. The spans come from the structure of the chat, never from searching it for special
tokens, so a text that holds `<|im_end|>` forges no turn. Three ways, each verified against the rendering
itself:

1. The template marks each assistant message with one `{% generation %}` block: they are the spans, without a header
   that they hold, closed by the end-of-turn token.
2. Otherwise, the chat's skeleton (`skeleton.py`) filled with the texts must equal the rendering.
3. Chats with tool calls, whose assistant text is no plain string, and chats whose skeleton does not fit: turns are
   found by sentinels inside the whole rendering (`turn_search.py`).
"""

import json
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from spice_select.errors import TemplateError
from spice_select.pool.messages import Conversation
from spice_select.pool.omissions import tags_show_all
from spice_select.pool.problems import RenderProblem, one_line
from spice_select.pool.skeleton import Skeleton, build_skeleton, slot_texts
from spice_select.pool.templates import ChatTemplate
from spice_select.pool.turn_borders import PROBE, TurnBorders, end_of_turn, other_end
from spice_select.pool.turn_search import TurnSearch

_TWO_TURNS = Conversation([*PROBE.messages, *PROBE.messages])
_SIMPLE_KEYS = frozenset(("role", "content"))
_CACHED_SHAPES = 4096


@dataclass(frozen=True, slots=True)
class Rendering:
    """A chat as text."""

    text: str  # what is tokenised, as a whole
    spans: list[tuple[int, int]]  # [start, end) characters to train on, in order, apart from each other


class Renderer:
    """Renders chats with one tokenizer's template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Probe the template with the smallest chat. Raises `TemplateError` if it is broken or refuses that chat."""
        self._template = ChatTemplate(tokenizer)
        self._skeletons: dict[object, Skeleton] = {}
        self._writes_tools: bool | None = None  # None before a chat offers tools
        self._tags_show_all: dict[object, bool] = {}  # by the shape of a chat
        try:
            self._borders = TurnBorders(self._template)
            probe = build_skeleton(self._template, PROBE, self._borders)
        except RenderProblem as problem:
            raise TemplateError(
                f"On a chat of one user and one assistant message, {problem.reason}\n"
                "Correct the template, or use another model's tokenizer."
            ) from problem
        last = probe.gaps()[-1]
        self._end_of_turn = end_of_turn(self._template, last, self._after_earlier_turn())
        self._search = TurnSearch(self._template, self._borders, self._end_of_turn)
        text, blocks = self._template.render_tagged(PROBE)
        # Whether the template's generation blocks reach over the end-of-turn token, and may hold the turn's header.
        self._tags_hold_end = bool(blocks) and text[: blocks[-1][1]].rstrip().endswith(self._end_of_turn)
        self._tags_hold_header = bool(blocks) and not self._borders.header_is_apart(text, blocks[-1][0])

    def render(self, chat: Conversation) -> Rendering:
        """Text and trained spans of one chat.

        Raises `RenderProblem` if the template refuses the chat, `TemplateError` if its spans cannot be determined.
        """
        tagged = self._by_tags(chat) if self._template.has_generation_tags(chat) else None
        if tagged is None:
            return self._by_structure(chat)
        return tagged if self._tags_fit(chat) else self._by_structure(chat)

    def _tags_fit(self, chat: Conversation) -> bool:
        shape = _shape(chat)
        if shape not in self._tags_show_all:
            if len(self._tags_show_all) >= _CACHED_SHAPES:
                self._tags_show_all.clear()
            self._tags_show_all[shape] = tags_show_all(self._template, chat)
        return self._tags_show_all[shape]

    def leaves_out_tools(self, chat: Conversation) -> bool:
        """Whether the template writes nothing of the tools on offer, as the first chat that offers some shows."""
        if chat.tools is None:
            return False
        if self._writes_tools is None:
            try:
                offered = self._template.render(replace(PROBE, tools=chat.tools))
                self._writes_tools = offered != self._template.render(PROBE)
            except RenderProblem:  # it looks at them, at least
                self._writes_tools = True
        return not self._writes_tools

    def _after_earlier_turn(self) -> str:
        """What follows the first turn of a chat of two; nothing if the template refuses it."""
        try:
            return build_skeleton(self._template, _TWO_TURNS, self._borders).gaps()[2]
        except (RenderProblem, TemplateError):
            return ""

    def _by_structure(self, chat: Conversation) -> Rendering:
        if any("tool_calls" in message for message in chat.messages):
            return Rendering(*self._search.turns(chat))
        try:
            return self._by_skeleton(chat)
        except TemplateError as unfit:
            try:
                return Rendering(*self._search.turns(chat))
            except (TemplateError, RenderProblem):
                raise unfit from None

    def _by_skeleton(self, chat: Conversation) -> Rendering:
        skeleton = self._skeleton(chat)
        text = self._template.render(chat)
        fills = slot_texts(self._template, skeleton, chat, text)
        trained = set(chat.trained_turns())
        spans, position, gaps = list[tuple[int, int]](), 0, skeleton.gaps()
        for slot, gap, after, fill in zip(skeleton.slots, gaps, gaps[1:], fills, strict=False):
            position += len(gap)
            if slot.message in trained:
                opened = len(slot.opens) if fill.startswith(slot.opens) else 0
                spans.append((position + opened, position + len(fill) + self._closing(slot.message, after)))
            position += len(fill)
        return Rendering(text, spans)

    def _skeleton(self, chat: Conversation) -> Skeleton:
        key = _shape(chat)
        if key not in self._skeletons:
            if len(self._skeletons) >= _CACHED_SHAPES:
                self._skeletons.clear()
            self._skeletons[key] = build_skeleton(self._template, chat, self._borders)
        return self._skeletons[key]

    def _closing(self, index: int, after: str) -> int:
        """How many characters of the text after a turn's content close the turn."""
        if after.startswith(self._end_of_turn):
            return len(self._end_of_turn)
        if (end := other_end(self._template, after, 0, len(after))) is not None:
            return end
        raise TemplateError(
            f"The chat template ends a chat's last turn with '{self._end_of_turn}', but follows message {index + 1} "
            f"(assistant) with '{one_line(after, 40)}'.\nUse a template that ends every assistant turn alike."
        )

    def _by_tags(self, chat: Conversation) -> Rendering | None:
        """Spans from the template's own blocks; None unless there is one for each assistant message, and it closes."""
        text, blocks = self._template.render_tagged(chat)
        turns = [index for index, message in enumerate(chat.messages) if message["role"] == "assistant"]
        if len(blocks) != len(turns) or any(not text[start:end].strip() for start, end in blocks):
            return None
        trained = set(chat.trained_turns())
        spans: list[tuple[int, int]] = []
        for turn, (start, end) in zip(turns, blocks, strict=True):
            closed = self._close_block(text, start, end)
            if closed is None:
                return None
            if turn in trained:
                held = self._tags_hold_header
                spans.append((self._borders.after_header(chat, turn, text, start, closed) if held else start, closed))
        return Rendering(text, spans)

    def _close_block(self, text: str, start: int, end: int) -> int | None:
        """The end of a marked block, moved to the end of the end-of-turn token; None where there is no such token.

        What the template does with the probe is tried first: a text may itself end in the end-of-turn token's text.
        Blocks that reach over the end of turn may end in another special token, as after a call.
        """
        ending, held = self._end_of_turn, self._tags_hold_end
        inside = start + len(text[start:end].rstrip())
        specials = [match.end() for match in self._template.specials.finditer(text, start, inside)]
        ends = [
            inside if text.endswith(ending, start, inside) or (held and inside in specials) else None,
            end + len(ending) if text.startswith(ending, end) else None,
        ]
        first, second = ends if held else reversed(ends)
        return second if first is None else first


def _shape(chat: Conversation) -> object:
    """What a skeleton depends on: all of the chat but its non-blank texts."""
    if (
        chat.tools is None
        and not chat.template_options
        and all(message.keys() <= _SIMPLE_KEYS for message in chat.messages)
    ):
        return tuple((m["role"], None if m["content"].strip() else m["content"]) for m in chat.messages)
    hollow = [{**m, "content": None if m.get("content", "").strip() else m.get("content")} for m in chat.messages]
    return json.dumps([hollow, chat.tools, chat.template_options], sort_keys=True, default=str)
