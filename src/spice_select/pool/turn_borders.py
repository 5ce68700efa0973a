"""What stands before the model's part of a turn, and what ends it.

The model's part begins where the template's generation prompt ends. Prompts may open a thinking block that the template
leaves out of turns without thinking; those begin after the rest of the prompt.
"""

import re

from spice_select.pool.messages import Conversation
from spice_select.pool.templates import ChatTemplate

PROBE = Conversation([{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}])
"""The smallest chat."""

_THINKING_OPENED = re.compile(r"(<[^<>]*(think|thought)[^<>]*>\s*)+$")


def start_of_turn(
    template: ChatTemplate, chat: Conversation, turn: int, text: str, begin: int, limit: int
) -> tuple[int, str] | None:
    """Where in a chat's rendering `text` the model's part of a turn begins; None where it does not show.

    Beside it, the thinking that the generation prompt would open there but the text does not. The place is looked for
    from `begin`, at or after the end of the text of the message before, to `limit`, at or before the end of the turn's
    own. Raises `RenderProblem` if the template refuses the messages before the turn.
    """
    prompts = _prompts_before(template, chat, turn)
    found = [(at, n, prompt) for n, prompt in enumerate(prompts) if (at := text.find(prompt, begin, limit)) >= 0]
    if found:
        at, _, prompt = min(found)  # a text may hold a prompt, too: the first is the header, of equal ones the longest
        return at + len(prompt), prompts[0][len(prompt) :] if prompts[0].startswith(prompt) else ""
    # Some templates never write a prompt; some write none where a turn goes on after a tool's answer.
    before = template.render(chat, until=turn)
    prompted = template.render(chat, until=turn, generation_prompt=True)
    unprompted = prompted.rstrip() == before.rstrip() and begin <= len(prompted) <= limit
    return (len(prompted), "") if unprompted and text.startswith(prompted) else None


def header_is_apart(template: ChatTemplate, text: str, start: int) -> bool:
    """Whether in the smallest chat's rendering `text` a marked block from `start` follows a whole generation prompt."""
    prompt = _added_prompt(template, PROBE, 1)
    return bool(prompt.strip()) and text[:start].endswith(prompt)


def skip_header(template: ChatTemplate, chat: Conversation, turn: int, text: str, start: int, end: int) -> int:
    """The `start` of a marked block [start, end), moved behind what of the turn's header the block holds.

    Raises `RenderProblem` if the template refuses the messages before the turn.
    """
    if turn == 0:
        return start
    for prompt in _prompts_before(template, chat, turn):
        at = text.find(prompt, max(0, start - len(prompt)), start + len(prompt))
        if 0 <= at <= start < at + len(prompt):
            return at + len(prompt)
    prompted = template.render(chat, until=turn, generation_prompt=True)
    return len(prompted) if start < len(prompted) < end and text.startswith(prompted) else start


def _prompts_before(template: ChatTemplate, chat: Conversation, turn: int) -> list[str]:
    """What the template may write before the model's part of a turn; none is blank.

    Its generation prompt, whole and without the thinking that it opens; if it writes none, the header of the smallest
    chat's answer.
    """
    prompt = _added_prompt(template, chat, turn)
    if prompt.strip():
        found = [prompt, _THINKING_OPENED.sub("", prompt)]
    else:
        text, before = template.render(PROBE), template.render(PROBE, until=1)
        header = text[len(before) : text.rfind("answer")] if text.startswith(before) else ""
        found = [_added_prompt(template, PROBE, 1), header]
    return [header for header in found if header.strip()]


def _added_prompt(template: ChatTemplate, chat: Conversation, turn: int) -> str:
    before = template.render(chat, until=turn)
    prompted = template.render(chat, until=turn, generation_prompt=True)
    return prompted[len(before) :] if prompted.startswith(before) else ""


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
