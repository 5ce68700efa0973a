"""Chat templates: the tokenizer's own, the plain one for base models, and what each writes after an
assistant's turn.

Base models have no chat template. Their rows are written in a plain form, with the tokenizer's eos token as
the end of turn (and its bos token first, where the tokenizer itself puts one):

    {system}

    ### Instruction:
    {user}

    ### Response:
    {assistant}{eos}

Blank lines part the turns of a longer chat. The blank line after `eos` belongs to the next turn and is not
trained.
"""

import re
from typing import Any

from jinja2 import TemplateError as JinjaError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import (
    render_jinja_template,  # pyright: ignore[reportUnknownVariableType]
)

from spice_select.errors import TemplateError
from spice_select.pool.deadline import OutOfTime, time_limit
from spice_select.pool.messages import Message
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

# Llama 3 templates write today's date unless given one; its own fixed default keeps a run the same tomorrow.
_FIXED_VARIABLES = {"date_string": "26 Jul 2024"}

# What a template may raise on data it was not written for; `raise_exception` in a template is a JinjaError.
_RENDER_ERRORS = (
    JinjaError, TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError,
    MemoryError, OutOfTime,
)  # fmt: skip

RENDER_SECONDS = 10.0
"""Most that the rendering of one chat may take; a template is a program, and may loop."""

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ChatTemplate:
    """One tokenizer's chat template, ready to render."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Settle which template is used.

        Raises:
            TemplateError: several named templates and no default, or no template and no eos token to end
                turns with.

        """
        self._tokenizer = tokenizer
        self._variables: dict[str, Any] = dict(_FIXED_VARIABLES)
        self._plain = not tokenizer.chat_template
        if self._plain:
            if not tokenizer.eos_token:
                raise TemplateError(
                    "The tokenizer has neither a chat template nor an eos token, so turns cannot be ended.\n"
                    "Set tokenizer.chat_template, or use an instruction-tuned model's tokenizer."
                )
            self._variables["plain_bos"] = _own_bos(tokenizer)
        self.specials = _special_pattern(tokenizer)

    def source(self, tools: list[dict[str, Any]] | None) -> str:
        """The Jinja text used for a chat with these tools."""
        if self._plain:
            return PLAIN_TEMPLATE
        try:
            return self._tokenizer.get_chat_template(None, tools)
        except ValueError as error:
            raise TemplateError(f"No chat template can be chosen: {one_line(str(error))}") from error

    def has_generation_tags(self, tools: list[dict[str, Any]] | None) -> bool:
        """Whether the template itself marks the assistant's text with `{% generation %}`."""
        return _GENERATION_TAG.search(self.source(tools)) is not None

    def render(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, *, generation_prompt: bool = False
    ) -> str:
        """The chat as text.

        Raises:
            RenderProblem: the template refuses the chat; the reason carries the template's own message.
            TemplateError: it takes more than `RENDER_SECONDS`.

        """
        try:
            with time_limit(RENDER_SECONDS):
                text = self._tokenizer.apply_chat_template(
                    messages,
                    tools=tools,  # pyright: ignore[reportArgumentType]
                    chat_template=self.source(tools),
                    add_generation_prompt=generation_prompt,
                    tokenize=False,
                    **self._variables,
                )
        except _RENDER_ERRORS as error:
            raise _refusal(error) from error
        return str(text)

    def render_tagged(
        self, messages: list[Message], tools: list[dict[str, Any]] | None
    ) -> tuple[str, list[tuple[int, int]]]:
        """The chat as text, and the character spans that the template's `{% generation %}` blocks wrote.

        Characters rather than `return_assistant_tokens_mask`, which loses a block's end where no token starts
        there.

        Raises:
            RenderProblem, TemplateError: as for `render`.

        """
        variables: dict[str, Any] = {**self._tokenizer.special_tokens_map, **self._variables}
        try:
            with time_limit(RENDER_SECONDS):
                texts, spans = render_jinja_template(
                    conversations=[messages],
                    tools=tools,  # pyright: ignore[reportArgumentType]
                    chat_template=self.source(tools),
                    return_assistant_tokens_mask=True,
                    **variables,
                )
        except _RENDER_ERRORS as error:
            raise _refusal(error) from error
        return texts[0], [(int(start), int(end)) for start, end in spans[0]]

    def end_of_turn(self, after: str) -> str:
        """What closes an assistant's turn: of the text after the last turn's content, up to its first special
        token.

        Without a special token it is that text less its trailing white space, which may leave nothing.
        """
        special = self.specials.search(after)
        return after[: special.end()] if special else after.rstrip()


def _refusal(error: Exception) -> RenderProblem | TemplateError:
    if isinstance(error, OutOfTime):
        return TemplateError(
            f"The chat template does not come to an end: {error}.\nMend the template, or use another model's tokenizer."
        )
    return RenderProblem(f"the chat template refuses it: {one_line(str(error)) or type(error).__name__}")


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
