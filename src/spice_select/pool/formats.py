"""The known formats of instruction data: which fields of a row hold what. A format is one entry of `FORMATS`.

A file is of one format; it is found from its first rows and every row is held to it. Nothing is guessed:
fields that fit no format, or more than one, are an error that says how to choose.
docs/templates.md describes the formats.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from spice_select.errors import ConfigError, PoolError
from spice_select.pool.messages import (
    Conversation,
    Message,
    check_conversation,
    openai_messages,
    parse_tools,
    sharegpt_messages,
)
from spice_select.pool.problems import TOO_DEEP, RowProblem, one_line, too_deep

PROBED_ROWS = 100
"""Rows of a file from which its format is found."""


@dataclass(frozen=True, slots=True)
class Format:
    """A known layout of rows; a field is named by the role it plays."""

    name: str  # as in the `format` option
    required: tuple[str, ...]  # fields by which the format is known, the user's first, the response's last
    optional: tuple[str, ...]  # fields that are used where present
    convert: "Callable[[Fields], Conversation]"  # builds the messages of one row; raises `RowProblem`


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of one input are read."""

    format: Format
    columns: Mapping[str, str]  # role -> column of the file, where the two differ and the file has the column

    def column(self, role: str) -> str:
        """The column that plays `role`."""
        return self.columns.get(role, role)

    def conversation(self, row: Mapping[str, Any]) -> Conversation:
        """The checked messages of one row. Raises `RowProblem`, which names the field that its format lacks."""
        fields = Fields(row, self)
        for role in self.format.required:
            if fields.value(role) is None:
                raise RowProblem(f"field '{self.column(role)}' is missing or null")
        conversation = self.format.convert(fields)
        if too_deep((conversation.messages, conversation.tools)):  # JSON text in a field may be deeper than its row
            raise RowProblem(f"a message or a tool {TOO_DEEP}")
        check_conversation(conversation, self.column(self.format.required[0]), self.column(self.format.required[-1]))
        return conversation


@dataclass(frozen=True, slots=True)
class Fields:
    """One row seen through the roles of its format's fields."""

    row: Mapping[str, Any]
    layout: Layout

    def value(self, role: str) -> Any:
        """The row's value for `role`; None where the row lacks it or the format does not use it."""
        known = role in self.layout.format.required or role in self.layout.format.optional
        return self.row.get(self.layout.column(role)) if known else None

    def text(self, role: str) -> str:
        """The text of a required field."""
        value = self.value(role)
        if not isinstance(value, str):
            raise RowProblem(f"field '{self.layout.column(role)}' is {type(value).__name__}, not text")
        return value

    def optional_text(self, role: str) -> str:
        """The text of a field that may be missing, null or blank, all of which give the empty string."""
        text = "" if self.value(role) is None else self.text(role)
        return text if text.strip() else ""

    def tools(self) -> list[dict[str, Any]] | None:
        """The tools on offer."""
        return parse_tools(self.value("tools"), self.layout.column("tools"))


def find_format(label: str, rows: Sequence[Mapping[str, Any]], name: str | None, columns: Mapping[str, str]) -> Format:
    """The format of the file `label` from its first rows: `name`, or the one that its fields fit.

    A field counts as present where at least half of the first 100 rows have a value for it. Raises `PoolError` if the
    fields fit no format, or several, or not `name`.
    """
    probed = rows[:PROBED_ROWS]
    counts: dict[str, int] = {}
    for row in probed:
        for field, value in row.items():
            counts[field] = counts.get(field, 0) + (value is not None)
    fields = [field for field, count in counts.items() if 2 * count >= len(probed)]
    fitting = [
        found
        for found in FORMATS
        if name in (None, found.name) and all(columns.get(role, role) in fields for role in found.required)
    ]
    if len(fitting) != 1:
        raise _format_error(label, fields, fitting, name, columns)
    return fitting[0]


def check_format_options(name: str | None, columns: Mapping[str, str]) -> None:
    """Raise `ConfigError` if the `format` option, or a role in the `columns` option, is unknown."""
    chosen = [found for found in FORMATS if name in (None, found.name)]
    if not chosen:
        known = ", ".join(found.name for found in FORMATS)
        raise ConfigError(f"format '{name}' is unknown.\nKnown formats: {known}.")
    roles = list(dict.fromkeys(role for found in chosen for role in (*found.required, *found.optional)))
    for role in columns:
        if role not in (*roles, "id", "source"):
            raise ConfigError(
                f"columns: '{role}' is no field of {name or 'any format'}.\n"
                f"Known fields: {', '.join(roles)}, id, source. Write field: column, e.g. prompt: my_column."
            )


def _format_error(
    label: str, fields: list[str], fitting: list[Format], name: str | None, columns: Mapping[str, str]
) -> PoolError:
    found = one_line(", ".join(fields), 300) or "none"
    mapped = f" with columns {dict(columns)}" if columns else ""
    if len(fitting) > 1:
        names = " and ".join(f.name for f in fitting)
        return PoolError(
            f"{label}: its fields ({found}) fit more than one format: {names}{mapped}.\n"
            f"Choose one with the format option, e.g. format: {fitting[0].name}."
        )
    if name is not None:
        needed = " and ".join(f"'{columns.get(r, r)}'" for f in FORMATS if f.name == name for r in f.required)
        return PoolError(
            f"{label}: not in format {name}, which needs {needed}; fields found: {found}.\n"
            "Name your columns with the columns option, e.g. columns: {prompt: question_text, completion: reply}."
        )
    known = "; ".join(f"{f.name} ({', '.join(f.required)})" for f in FORMATS)
    return PoolError(
        f"{label}: its fields ({found}) fit no known format{mapped}.\nKnown: {known}.\n"
        "Say which column is which, e.g. format: prompt-completion, columns: {prompt: my_question, completion: reply}."
    )


def _messages(fields: Fields) -> Conversation:
    messages = openai_messages(fields.value("messages"), fields.layout.column("messages"))
    context = frozenset(i for i, message in enumerate(messages) if message.pop("weight", None) == 0)
    return Conversation(messages, fields.tools(), untrained=context)


def _sharegpt(fields: Fields) -> Conversation:
    turns = sharegpt_messages(fields.value("conversations"), fields.layout.column("conversations"))
    return Conversation(_system(fields) + turns, fields.tools())


def _prompt_completion(fields: Fields) -> Conversation:
    prompt, completion = _side(fields, "prompt", "user"), _side(fields, "completion", "assistant")
    if all(m["role"] != "assistant" for m in completion):
        raise RowProblem(f"field '{fields.layout.column('completion')}' holds no assistant message")
    context = frozenset(i for i, m in enumerate(prompt) if m["role"] == "assistant")
    return Conversation(prompt + completion, fields.tools(), untrained=context)


def _side(fields: Fields, role: str, speaker: str) -> list[Message]:
    """One side of a prompt-completion row: messages, or the text of one by `speaker`."""
    if isinstance(fields.value(role), list):
        return openai_messages(fields.value(role), fields.layout.column(role))
    return [{"role": speaker, "content": fields.text(role)}]


def _single_turn(fields: Fields) -> Conversation:
    """System prompt, history, one user turn (with `input` or `context` after a blank line), one response."""
    user, response = fields.layout.format.required
    given, context = fields.optional_text("input"), fields.optional_text("context")
    if given and context:
        raise RowProblem(
            f"fields '{fields.layout.column('input')}' and '{fields.layout.column('context')}' are both filled"
        )
    asked = "\n\n".join([fields.text(user), *filter(None, [given, context])])
    turn = [{"role": "user", "content": asked}, {"role": "assistant", "content": fields.text(response)}]
    return Conversation([*_system(fields), *_history(fields), *turn])


def _system(fields: Fields) -> list[Message]:
    text = fields.optional_text("system")
    return [{"role": "system", "content": text}] if text else []


def _history(fields: Fields) -> list[Message]:
    pairs: object = fields.value("history")
    messages: list[Message] = []
    for pair in cast("list[object]", [] if pairs is None else pairs if isinstance(pairs, list) else [pairs]):
        texts = cast("list[object]", pair) if isinstance(pair, list) else []
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise RowProblem(
                f"field '{fields.layout.column('history')}' is not a list of (user, assistant) pairs of text"
            )
        messages += [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": texts[1]}]
    return messages


FORMATS: tuple[Format, ...] = (
    Format("messages", ("messages",), ("tools",), _messages),
    Format("sharegpt", ("conversations",), ("system", "tools"), _sharegpt),
    Format("prompt-completion", ("prompt", "completion"), ("tools",), _prompt_completion),
    Format("prompt-response", ("prompt", "response"), ("system",), _single_turn),
    Format("alpaca", ("instruction", "output"), ("input", "system", "history"), _single_turn),
    Format("instruction-response", ("instruction", "response"), ("input", "context", "system"), _single_turn),
    Format("question-answer", ("question", "answer"), ("system",), _single_turn),
)
