"""Chat templates: the tokenizer's own, or a plain one for base models, whose tokenizers have none.

The plain form ends turns with the tokenizer's eos token (and starts with its bos token, where the tokenizer itself
puts one):

    {system}

    ### Instruction:
    {user}

    ### Response:
    {assistant}{eos}

Blank lines separate the turns of a longer chat. The blank line after `eos` belongs to the next turn and is not
trained.
"""

import json
import re
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

from jinja2 import TemplateError as JinjaError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import (
    render_jinja_template,  # pyright: ignore[reportUnknownVariableType]
)

from spice_select.errors import TemplateError
from spice_select.pool.messages import Conversation, Message
from spice_select.pool.problems import RenderProblem, one_line

PLAIN_TEMPLATE = """\
{{- plain_bos -}}
{%- for message in messages -%}
{%- if not loop.first and messages[loop.index0 - 1].role == 'assistant' -%}{{- '\\n\\n' -}}{%- endif -%}
{%- if message.role == 'system' -%}
{{- message.content + '\\n\\n' -}}
{%- elif message.role == 'user' -%}
{{- '### Instruction:\\n' + message.content + '\\n\\n' -}}
{%- elif message.role == 'assistant' and message.content is string -%}
{{- '### Response:\\n' + message.content + eos_token -}}
{%- else -%}
{{- raise_exception('the plain template for base models has no tool calls and no role ' + message.role) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{%- if messages[-1].role == 'assistant' -%}{{- '\\n\\n' -}}{%- endif -%}
{{- '### Response:\\n' -}}
{%- endif -%}
"""

# Llama 3 templates write today's date unless given one; their own fixed default keeps a run the same tomorrow.
_FIXED_VARIABLES = {"date_string": "26 Jul 2024"}

# What a template may raise on data it was not written for; `raise_exception` in a template is a JinjaError.
_RENDER_ERRORS = (
    JinjaError, TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError,
    MemoryError,
)  # fmt: skip

RENDER_SECONDS = 10.0
"""Most that the rendering of one chat may take; a template is a program, and may loop."""

_ARGUMENTS = {"x": "y"}
_CALL: list[Message] = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "id": "call00001", "function": {"name": "f", "arguments": _ARGUMENTS}}
    ]},
    {"role": "tool", "content": "z", "tool_call_id": "call00001", "name": "f"},
    {"role": "assistant", "content": "b"},
]  # fmt: skip

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ChatTemplate:
    """One tokenizer's chat template, ready to render."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Choose the template. Raises `TemplateError` if there is none, and no eos token to end turns with."""
        self._tokenizer = tokenizer
        self._variables: dict[str, Any] = dict(_FIXED_VARIABLES)
        self._arguments_as_text: dict[bool, bool] = {}  # without tools on offer, and with them; empty before any call
        self._plain = not tokenizer.chat_template
        if self._plain:
            if not tokenizer.eos_token:
                raise TemplateError(
                    "The tokenizer has neither a chat template nor an eos token, so turns cannot be ended.\n"
                    "Set tokenizer.chat_template, or use an instruction-tuned model's tokenizer."
                )
            self._variables["plain_bos"] = _own_bos(tokenizer)
        self.specials = _special_pattern(tokenizer)

    def has_generation_tags(self, chat: Conversation) -> bool:
        """Whether the template for this chat marks the assistant's text with `{% generation %}`."""
        return _GENERATION_TAG.search(self._source(chat)) is not None

    def render(self, chat: Conversation, *, until: int | None = None, generation_prompt: bool = False) -> str:
        """The chat, or its messages before `until`, as text.

        Raises `RenderProblem`, with the template's own message, if it refuses the chat, and `TemplateError` if it takes
        more than `RENDER_SECONDS` or there are several named templates and no default.
        """
        source, messages = self._source(chat), self._messages(chat)
        with _rendering(calls=_has_calls(chat)):
            text = self._tokenizer.apply_chat_template(
                messages[:until],
                tools=chat.tools,  # pyright: ignore[reportArgumentType]
                chat_template=source,
                add_generation_prompt=generation_prompt,
                tokenize=False,
                **{**self._variables, **chat.template_options},
            )
        return str(text)

    def render_tagged(self, chat: Conversation) -> tuple[str, list[tuple[int, int]]]:
        """The chat as text, and the character spans that the template's `{% generation %}` blocks wrote.

        Characters, as the token mask of `apply_chat_template` loses a block's end where no token starts there. Raises
        as `render`.
        """
        source, messages = self._source(chat), self._messages(chat)
        variables: dict[str, Any] = {
            **self._tokenizer.special_tokens_map, **self._variables, **chat.template_options
        }  # fmt: skip
        with _rendering(calls=_has_calls(chat)):
            texts, spans = render_jinja_template(
                conversations=[messages],
                tools=chat.tools,  # pyright: ignore[reportArgumentType]
                chat_template=source,
                return_assistant_tokens_mask=_GENERATION_TAG.search(source) is not None,
                **variables,
            )
        return texts[0], [(int(start), int(end)) for found in spans for start, end in found]

    def _messages(self, chat: Conversation) -> list[Message]:
        """The messages; arguments of calls as JSON text where the template takes nothing else (DeepSeek V3)."""
        if not _has_calls(chat):
            return chat.messages
        key = chat.tools is None
        if key not in self._arguments_as_text:
            self._arguments_as_text[key] = False  # for the rendering of the two probes
            objects = self._rendered(replace(chat, messages=_CALL))
            text = self._rendered(replace(chat, messages=_with_text_arguments(_CALL)))
            # Some templates refuse objects, some write them as Python does.
            self._arguments_as_text[key] = text is not None and (objects is None or repr(_ARGUMENTS) in objects)
        return _with_text_arguments(chat.messages) if self._arguments_as_text[key] else chat.messages

    def _rendered(self, chat: Conversation) -> str | None:
        try:
            return self.render(chat)
        except RenderProblem:
            return None

    def _source(self, chat: Conversation) -> str:
        if self._plain:
            return PLAIN_TEMPLATE
        try:
            return self._tokenizer.get_chat_template(None, chat.tools)
        except ValueError as error:
            raise TemplateError(f"No chat template can be chosen: {one_line(str(error))}") from error


def _has_calls(chat: Conversation) -> bool:
    return any("tool_calls" in message for message in chat.messages)


def _with_text_arguments(messages: list[Message]) -> list[Message]:
    """The messages with the arguments of every call as JSON text."""
    return [
        {**message, "tool_calls": [_with_text_argument(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def _with_text_argument(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        function = {**function, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {**call, "function": function} if "function" in call else function


@contextmanager
def _rendering(*, calls: bool) -> Generator[None]:
    """Limit the time of the template, and name its errors; `calls` says whether the chat has tool calls."""
    try:
        with _time_limit(RENDER_SECONDS):
            yield
    except _OutOfTime as error:
        raise TemplateError(
            f"The chat template did not finish within {RENDER_SECONDS:g} seconds.\n"
            "Correct the template, or use another model's tokenizer."
        ) from error
    except _RENDER_ERRORS as error:
        reason = one_line(str(error)) or type(error).__name__
        known = " (a chat with tool calls, which it may not know)" if calls else ""
        raise RenderProblem(f"the chat template refuses it: {reason}{known}") from error


class _OutOfTime(Exception):  # noqa: N818 - it is an event, not an error of the program
    """The template was stopped."""


@contextmanager
def _time_limit(seconds: float) -> Generator[None]:
    """End the context with `_OutOfTime` after so many seconds, by SIGALRM and the process's timer.

    There is no limit outside the main thread, and where another part of the program uses that signal or timer.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _own_bos(tokenizer: PreTrainedTokenizerBase) -> str:
    """The bos token, if the tokenizer puts it before plain text."""
    ids: list[int] = tokenizer("a")["input_ids"]  # pyright: ignore[reportAssignmentType]
    return str(tokenizer.bos_token) if tokenizer.bos_token and ids[:1] == [tokenizer.bos_token_id] else ""


def _special_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Matches any added token that is not mere white space (Gemma has added tokens of newlines)."""
    tokens = {str(token.content) for token in tokenizer.added_tokens_decoder.values()}
    tokens |= {str(token) for token in tokenizer.all_special_tokens}
    longest_first = sorted((t for t in tokens if t.strip()), key=lambda t: (-len(t), t))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
