"""The known formats of instruction data: which fields of a row hold what. A format is one entry of `FORMATS`.

The format of a file is found from its first rows. Nothing is guessed: fields that fit no format, or more than one, are
an error that says how to choose, unless each row alone fits one (`layouts`).
docs/formats.md describes the formats.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spice_select.errors import ConfigError, PoolError
from spice_select.pool.conversions import (
    from_gemini,
    from_messages,
    from_preference,
    from_prompt_completion,
    from_single_turn,
)
from spice_select.pool.fields import ALIASES, TEMPLATE_OPTIONS, Fields, is_absent, is_empty
from spice_select.pool.marks import check_row_marks, is_row_mark
from spice_select.pool.messages import Conversation, check_conversation
from spice_select.pool.problems import TOO_DEEP, RowProblem, one_line, too_deep

PROBED_ROWS = 100
"""Rows of a file from which its format is found."""


@dataclass(frozen=True, slots=True)
class Format:
    """A known layout of rows; a field is named by the role it plays."""

    name: str  # as in the `format` option
    required: tuple[str, ...]  # fields by which the format is known, the user's first, the response's last
    optional: tuple[str, ...]  # fields that are used where present
    convert: Callable[[Fields], Conversation]  # builds the messages of one row; raises `RowProblem`

    @property
    def roles(self) -> tuple[str, ...]:
        """Every field that it uses."""
        return (*self.required, *self.optional, TEMPLATE_OPTIONS)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of one input are read."""

    format: Format
    columns: Mapping[str, str]  # role -> column of the file, where the two differ and the file has the column
    filled_nulls: bool = False  # whether nulls inside objects are Arrow's, which gives all of a column the same keys

    def column(self, role: str) -> str:
        """The column that plays `role`."""
        return self.columns.get(role, role)

    def conversation(self, row: Mapping[str, Any]) -> Conversation:
        """The checked messages of one row.

        Raises `RowProblem`, which names the field that its format lacks; as a `MarkedRow` if it is not to be learnt.
        """
        fields = Fields(row, self.columns, self.format.required, self.format.roles, self.filled_nulls)
        for role in self.format.required:
            if fields.value(role) is None:
                raise RowProblem(f"field '{self.column(role)}' is missing or null")
        check_row_marks(row)
        fields.refuse_media()
        conversation = self.format.convert(fields)
        if too_deep((conversation.messages, conversation.tools)):  # JSON text in a field may be deeper than its row
            raise RowProblem(f"a message or a tool {TOO_DEEP}")
        check_conversation(conversation, self.column(self.format.required[0]), self.column(self.format.required[-1]))
        return conversation

    def used_columns(self) -> frozenset[str]:
        """The columns that become part of a chat or of a row's name."""
        roles = (*self.format.roles, "id", "source")
        names = {
            name for role in roles for name in ((self.columns.get(role),) if role in self.columns else _names(role))
        }
        return frozenset(name for name in names if name)


def unused_columns(row: Mapping[str, Any], used: Collection[str]) -> list[str]:
    """The filled columns of a row that are neither among the `used` ones nor marks that were followed."""
    return [
        name for name, value in row.items() if name not in used and not is_empty(value) and not is_row_mark(name, value)
    ]


def _names(role: str) -> tuple[str, ...]:
    return ALIASES.get(role, (role,))


def find_format(label: str, rows: Sequence[Mapping[str, Any]], name: str | None, columns: Mapping[str, str]) -> Format:
    """The format of the file `label` from its first rows: `name`, or the one that its fields fit.

    A field counts as present where at least half of the first 100 rows have a value for it. Raises `PoolError` if the
    fields fit no format, or several, or not `name`.
    """
    probed = rows[:PROBED_ROWS]
    counts: dict[str, int] = {}
    for row in probed:
        for field, value in row.items():
            counts[field] = counts.get(field, 0) + (not is_absent(value))
    fields = [field for field, count in counts.items() if 2 * count >= len(probed)]
    fitting = fitting_formats(fields, columns, name)
    if len(fitting) != 1:
        raise _format_error(label, fields, fitting, name, columns)
    return fitting[0]


def fitting_formats(fields: Collection[str], columns: Mapping[str, str], name: str | None = None) -> list[Format]:
    """The formats, or the one called `name`, whose required fields are all among `fields`; weak ones only alone."""
    fitting = [
        found
        for found in FORMATS
        if name in (None, found.name) and all(columns.get(role, role) in fields for role in found.required)
    ]
    return [found for found in fitting if found.name not in _WEAK] or fitting


def check_format_options(name: str | None, columns: Mapping[str, str]) -> None:
    """Raise `ConfigError` if the `format` option, or a role in the `columns` option, is unknown."""
    chosen = [found for found in FORMATS if name in (None, found.name)]
    if not chosen:
        known = ", ".join(found.name for found in FORMATS)
        raise ConfigError(f"format '{name}' is unknown.\nKnown formats: {known}.")
    roles = list(dict.fromkeys(role for found in chosen for role in found.roles))
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


_CHAT = ("system", "tools")
_ASKED = ("input", "context", "system", "history")

FORMATS: tuple[Format, ...] = (
    Format("messages", ("messages",), _CHAT, from_messages),
    Format("sharegpt", ("conversations",), _CHAT, from_messages),
    Format("prompt-completion", ("prompt", "completion"), _CHAT, from_prompt_completion),
    Format("prompt-response", ("prompt", "response"), _ASKED, from_single_turn),
    Format("alpaca", ("instruction", "output"), _ASKED, from_single_turn),
    Format("instruction-response", ("instruction", "response"), _ASKED, from_single_turn),
    Format("question-answer", ("question", "answer"), _ASKED, from_single_turn),
    Format("question-response", ("question", "response"), _ASKED, from_single_turn),
    Format("preference", ("chosen",), ("prompt", *_CHAT), from_preference),
    Format("gemini", ("contents",), _CHAT, from_gemini),
)
_WEAK = ("preference", "gemini")
"""Formats of one field that may stand beside those of another, which then counts."""
