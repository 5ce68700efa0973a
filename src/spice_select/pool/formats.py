"""Which fields of a row hold what: the known formats of instruction data, found by the fields present.

A file is of one format; it is found from its first rows and every row is held to it. Nothing is guessed:
fields that fit no format, or more than one, are an error that says how to choose.

| format | fields | made into |
| --- | --- | --- |
| messages | messages, tools? | as they are; an assistant turn whose OpenAI `weight` is 0 is context and not trained |
| sharegpt | conversations, system?, tools? | from/value turned into role/content |
| prompt-completion | prompt, completion, tools? | text: one user and one assistant turn; lists: joined, the prompt's own assistant turns are context and not trained |
| prompt-response | prompt, response, system? | one user and one assistant turn |
| alpaca | instruction, output, input?, system?, history? | input follows the instruction after a blank line; history: earlier (user, assistant) pairs, trained |
| instruction-response | instruction, response, input? or context?, system? | the same |
| question-answer | question, answer, system? | one user and one assistant turn |
"""  # noqa: E501

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
from spice_select.pool.nesting import TOO_DEEP, too_deep
from spice_select.pool.problems import RowProblem, one_line

PROBED_ROWS = 100
"""Rows of a file from which its format is found."""


@dataclass(frozen=True, slots=True)
class Fields:
    """One row seen through the roles of its format's fields.

    Attributes:
        row: the row as it is.
        columns: role -> column of the file, where the two differ.

    """

    row: Mapping[str, Any]
    columns: Mapping[str, str]

    def name(self, role: str) -> str:
        """The column that plays `role`."""
        return self.columns.get(role, role)

    def value(self, role: str) -> Any:
        """What the row holds for `role`; None where it lacks it."""
        return self.row.get(self.name(role))

    def text(self, role: str) -> str:
        """The text of a required field."""
        value = self.value(role)
        if value is None:
            raise RowProblem(f"field '{self.name(role)}' is missing or null")
        if not isinstance(value, str):
            raise RowProblem(f"field '{self.name(role)}' is {type(value).__name__}, not text")
        return value

    def optional_text(self, role: str) -> str:
        """The text of a field that may be missing, null or blank, all of which give the empty string."""
        text = "" if self.value(role) is None else self.text(role)
        return text if text.strip() else ""


@dataclass(frozen=True, slots=True)
class Format:
    """A known layout of rows.

    Attributes:
        name: as in the `format` option.
        required: roles of the fields that make the format out, the user's first, the response's last.
        optional: roles of the fields that are used where present.
        convert: builds the messages of one row; raises `RowProblem`.

    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    convert: Callable[[Fields], Conversation]


def to_conversation(row: Mapping[str, Any], found: Format, columns: Mapping[str, str]) -> Conversation:
    """The messages of one row, checked.

    Raises:
        RowProblem: the row does not hold what its format needs; the reason names the field.

    """
    fields = Fields(row, columns)
    for role in found.required:
        if fields.value(role) is None:
            raise RowProblem(f"field '{fields.name(role)}' is missing or null")
    conversation = found.convert(fields)
    if too_deep(
        (conversation.messages, conversation.tools)
    ):  # JSON text in a field can hold what the row itself cannot
        raise RowProblem(f"a message or a tool {TOO_DEEP}")
    check_conversation(conversation, fields.name(found.required[0]), fields.name(found.required[-1]))
    return conversation


def find_format(label: str, rows: Sequence[Mapping[str, Any]], name: str | None, columns: Mapping[str, str]) -> Format:
    """The format of a file.

    A field counts as present where at least half of the first 100 rows have a value for it, so that one bad
    first row does not decide for the file.

    Args:
        label: the file, for the error.
        rows: its first rows.
        name: the `format` option, or None to find it.
        columns: role -> column of the file.

    Raises:
        PoolError: the fields fit no format, or several, or not the one asked for.

    """
    probed = rows[:PROBED_ROWS]
    counts: dict[str, int] = {}
    for row in probed:
        for field, value in row.items():
            counts[field] = counts.get(field, 0) + (value is not None)
    fields = [field for field, count in counts.items() if 2 * count >= len(probed)]
    fitting = [f for f in FORMATS if all(columns.get(role, role) in fields for role in f.required)]
    if name is not None:
        fitting = [f for f in fitting if f.name == name]
    if len(fitting) == 1:
        return fitting[0]
    raise _format_error(label, fields, fitting, name, columns)


def check_format_options(name: str | None, columns: Mapping[str, str]) -> None:
    """Hold the `format` and `columns` options to the names that exist.

    Raises:
        ConfigError: the format, or a role in `columns`, is unknown.

    """
    names = [f.name for f in FORMATS]
    if name is not None and name not in names:
        raise ConfigError(f"format '{name}' is unknown.\nKnown formats: {', '.join(names)}.")
    chosen = [f for f in FORMATS if name in (None, f.name)]
    roles = list(dict.fromkeys(role for f in chosen for role in (*f.required, *f.optional)))
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
    messages = openai_messages(fields.value("messages"), fields.name("messages"))
    return Conversation(
        [{key: value for key, value in m.items() if key != "weight"} for m in messages],
        parse_tools(fields.value("tools"), fields.name("tools")),
        untrained=frozenset(i for i, m in enumerate(messages) if m.get("weight") == 0),
    )


def _sharegpt(fields: Fields) -> Conversation:
    return Conversation(
        _system(fields) + sharegpt_messages(fields.value("conversations"), fields.name("conversations")),
        parse_tools(fields.value("tools"), fields.name("tools")),
    )


def _prompt_completion(fields: Fields) -> Conversation:
    prompt = _side(fields, "prompt", "user")
    completion = _side(fields, "completion", "assistant")
    if all(m["role"] != "assistant" for m in completion):
        raise RowProblem(f"field '{fields.name('completion')}' holds no assistant message")
    return Conversation(
        prompt + completion,
        parse_tools(fields.value("tools"), fields.name("tools")),
        untrained=frozenset(i for i, m in enumerate(prompt) if m["role"] == "assistant"),
    )


def _side(fields: Fields, role: str, speaker: str) -> list[Message]:
    """One side of a prompt-completion row: messages, or text said by `speaker`."""
    if isinstance(fields.value(role), list):
        return openai_messages(fields.value(role), fields.name(role))
    return [{"role": speaker, "content": fields.text(role)}]


def _single_turn(fields: Fields, user: str, response: str, earlier: Sequence[Message] = ()) -> Conversation:
    turn = [{"role": "user", "content": user}, {"role": "assistant", "content": response}]
    return Conversation([*_system(fields), *earlier, *turn])


def _system(fields: Fields) -> list[Message]:
    text = fields.optional_text("system")
    return [{"role": "system", "content": text}] if text else []


def _history(fields: Fields) -> list[Message]:
    """Earlier turns of an Alpaca row, pairs of the user's and the assistant's text."""
    pairs: object = fields.value("history")
    if pairs is None:
        return []
    messages: list[Message] = []
    for pair in cast("list[object]", pairs if isinstance(pairs, list) else [pairs]):
        texts = cast("list[object]", pair) if isinstance(pair, list) else []
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise RowProblem(f"field '{fields.name('history')}' is not a list of (user, assistant) pairs of text")
        messages += [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": texts[1]}]
    return messages


def _alpaca(fields: Fields) -> Conversation:
    user = _joined(fields, fields.optional_text("input"))
    return _single_turn(fields, user, fields.text("output"), _history(fields))


def _instruction_response(fields: Fields) -> Conversation:
    given, context = fields.optional_text("input"), fields.optional_text("context")
    if given and context:
        raise RowProblem(f"fields '{fields.name('input')}' and '{fields.name('context')}' are both filled")
    return _single_turn(fields, _joined(fields, given or context), fields.text("response"))


def _joined(fields: Fields, given: str) -> str:
    """The instruction, a blank line, and what it is about."""
    instruction = fields.text("instruction")
    return f"{instruction}\n\n{given}" if given else instruction


def _pair(user: str, response: str) -> Callable[[Fields], Conversation]:
    return lambda fields: _single_turn(fields, fields.text(user), fields.text(response))


FORMATS: tuple[Format, ...] = (
    Format("messages", ("messages",), ("tools",), _messages),
    Format("sharegpt", ("conversations",), ("system", "tools"), _sharegpt),
    Format("prompt-completion", ("prompt", "completion"), ("tools",), _prompt_completion),
    Format("prompt-response", ("prompt", "response"), ("system",), _pair("prompt", "response")),
    Format("alpaca", ("instruction", "output"), ("input", "system", "history"), _alpaca),
    Format(
        "instruction-response",
        ("instruction", "response"),
        ("input", "context", "system"),
        _instruction_response,
    ),
    Format("question-answer", ("question", "answer"), ("system",), _pair("question", "answer")),
)
