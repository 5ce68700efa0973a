"""A pool's rows without their tokens, those left out, its files; and the options of reading."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from spice_select.errors import ConfigError
from spice_select.file_options import FileOptions
from spice_select.pool.formats import check_format_options
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.problems import one_line


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How rows are read."""

    format: str | None = None  # name of the rows' format; None finds it, file by file
    columns: Mapping[str, str] = field(default_factory=dict[str, str])  # role (a format's field, id, source) -> column
    skip_invalid: bool = False  # leave rows out that cannot be trained on, instead of stopping
    max_length: int = 2048  # most tokens of an example; the rest of a longer one is cut off
    per_file: Mapping[str, FileOptions] = field(default_factory=dict[str, FileOptions])  # by the name of an input

    def __post_init__(self) -> None:
        """Raise `ConfigError` for an unknown format or field, or a length too short for a prompt and an answer."""
        check_format_options(self.format, self.columns)
        for name, own in self.per_file.items():
            try:
                check_format_options(own.format, own.columns)
            except ConfigError as error:
                raise ConfigError(f"{one_line(name, 100)}: {error}") from None
        if self.max_length < 2:
            raise ConfigError(f"max_length must be at least 2, not {self.max_length}.")


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was read."""

    source: str  # name of the data set it belongs to: its own `source` field, or its file's name
    location: str  # for people, e.g. `gsm8k.jsonl.gz, row 17`
    number: int  # 1-based place in its file
    data: dict[str, Any]  # every field, unchanged


@dataclass(frozen=True, slots=True)
class Line:
    """A usable row in a listing of the pool, without its text."""

    index: int  # place among the usable rows
    id: str  # unique in the pool
    source: str  # name of its data set
    location: str  # for people, e.g. `gsm8k.jsonl.gz, row 17`
    tokens: int  # of the example
    trained_tokens: int  # how many of them the loss is taken over


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row left out."""

    source: str  # name of its data set
    location: str  # for people, e.g. `gsm8k.jsonl.gz, row 17`
    number: int  # 1-based place in its file
    reason: str  # short, naming the field
    raw: dict[str, Any] | str  # its fields, or its text where that could not be parsed
    marked: bool = False  # whether its own data says that it is not to be learnt


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One input of the pool, for the record."""

    name: str  # unique in the run
    path: str  # as given
    format: str  # of its rows; "mixed" where they are of several
    rows: int  # how many it holds, invalid ones included
    sha256: str  # of the file's bytes; for rows that are not in one file, of their contents in order
    unused: dict[str, int] = field(default_factory=dict[str, int])  # columns that no chat holds -> rows that fill them
    formats: dict[str, int] = field(default_factory=dict[str, int])  # format -> rows that were read by it
    used: list[str] = field(default_factory=list[str])  # columns that become part of a chat or of a row's name
    untrained: dict[str, int] = field(default_factory=dict[str, int])  # why -> assistant turns that are context
    label: str = ""  # its name in the locations of rows


def unused_fields(file: SourceFile, most: int = 12) -> str:
    """A sentence that names the fields of a file that are not used, and how many rows fill them."""
    named = [f"{one_line(name, 40)} ({count:,})" for name, count in list(file.unused.items())[:most]]
    more = f" and {len(file.unused) - most:,} more" if len(file.unused) > most else ""
    return f"fields that are not used (rows that fill them): {', '.join(named)}{more}"


def untrained_turns(file: SourceFile) -> str:
    """A sentence that says how many assistant turns of a file are context, and why."""
    reasons = ", ".join(f"{why} ({count:,})" for why, count in file.untrained.items())
    return f"assistant turns that are context, not trained: {reasons}"


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """A pool without its texts."""

    lines: Rows[Line]  # of every usable row
    rejected: list[Rejection]
    files: list[SourceFile]
    truncated: int  # how many usable rows `max_length` cut

    def places(self, lines: Iterable[Line]) -> list[int]:
        """The place of each line among all rows of the inputs, from 0: rows left out count, and one input follows
        another, as `datasets.concatenate_datasets` would join them.
        """
        counts = accumulate((file.rows for file in self.files), initial=0)
        starts = dict(zip((file.label for file in self.files), counts, strict=False))
        found = (line.location.rpartition(", row ") for line in lines)
        return [starts[label] + int(number.split()[0]) - 1 for label, _, number in found]

    def remarks(self, max_length: int) -> list[str]:
        """Sentences on rows that were left out or cut, and on fields that are not used."""
        found: list[str] = []
        for reason, rows in (
            ("their data marks them as not to be learnt", [row for row in self.rejected if row.marked]),
            ("they cannot be used", [row for row in self.rejected if not row.marked]),
        ):
            if rows:
                found.append(f"rows left out because {reason}: {len(rows):,}, such as {rows[0].location}")
        found += [f"{file.name}: {unused_fields(file)}" for file in self.files if file.unused]
        found += [f"{file.name}: {untrained_turns(file)}" for file in self.files if file.untrained]
        if self.truncated:
            found.append(f"rows cut at the end to {max_length} tokens: {self.truncated:,}")
        return found

    @property
    def total_tokens(self) -> int:
        """Tokens of all rows, trained or not."""
        return int(self.lines.tokens.sum(dtype=np.int64))

    @property
    def trained_tokens(self) -> int:
        """Tokens that the loss is taken over."""
        return int(self.lines.trained_tokens.sum(dtype=np.int64))
