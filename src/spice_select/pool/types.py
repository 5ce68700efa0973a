"""What is said of a pool: its rows without their tokens, those left out, its files; and the options of reading."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from spice_select.errors import ConfigError
from spice_select.pool.formats import check_format_options
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.messages import Conversation


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How rows are read.

    Attributes:
        format: name of the rows' format; None finds it, file by file.
        columns: field of the format (or `id`, `source`) -> column of the files that plays it.
        skip_invalid: leave rows out that cannot be trained on, instead of stopping.
        max_length: most tokens of an example; the rest of a longer one is cut off.

    """

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    skip_invalid: bool = False
    max_length: int = 2048

    def __post_init__(self) -> None:
        """Raise `ConfigError` for an unknown format or field, or a length too short for a prompt and an answer."""
        check_format_options(self.format, self.columns)
        if self.max_length < 2:
            raise ConfigError(f"max_length must be at least 2, not {self.max_length}.")


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was read.

    Attributes:
        source: name of the data set it belongs to: its own `source` field, or its file's name.
        location: for people, e.g. `gsm8k.jsonl.gz, row 17`.
        number: 1-based place in its file.
        data: every field, unchanged.

    """

    source: str
    location: str
    number: int
    data: dict[str, Any]


class Chat(Protocol):
    """What files of chosen rows are made of; an `Example` is one."""

    @property
    def id(self) -> str:
        """Unique in the pool."""
        ...

    @property
    def row(self) -> Row:
        """Where it comes from."""
        ...

    @property
    def conversation(self) -> Conversation:
        """The chat that was rendered."""
        ...


@dataclass(frozen=True, slots=True)
class Line:
    """What a table of the pool says of a usable row, without its text.

    Attributes:
        index: place among the usable rows.
        id: unique in the pool.
        source: name of its data set.
        location: for people, e.g. `gsm8k.jsonl.gz, row 17`.
        tokens: of the example.
        trained_tokens: how many of them the loss is taken over.

    """

    index: int
    id: str
    source: str
    location: str
    tokens: int
    trained_tokens: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row left out.

    Attributes:
        source: name of its data set.
        location: for people, e.g. `gsm8k.jsonl.gz, row 17`.
        number: 1-based place in its file.
        reason: short, naming the field.
        raw: its fields, or its text where that could not be parsed.

    """

    source: str
    location: str
    number: int
    reason: str
    raw: dict[str, Any] | str


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One input of the pool, for the record.

    Attributes:
        name: unique in the run.
        path: as given.
        format: of its rows.
        rows: how many it holds, invalid ones included.
        sha256: of the file's bytes; for rows that are not in one file, of their contents in order.

    """

    name: str
    path: str
    format: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """A pool without its texts: a line for every usable row, the inputs, and what was left out or cut."""

    lines: Rows[Line]
    rejected: list[Rejection]
    files: list[SourceFile]
    truncated: int

    @property
    def total_tokens(self) -> int:
        """Tokens of all rows, trained or not."""
        return int(self.lines.tokens.sum(dtype=np.int64))

    @property
    def trained_tokens(self) -> int:
        """Tokens that the loss is taken over."""
        return int(self.lines.trained_tokens.sum(dtype=np.int64))
