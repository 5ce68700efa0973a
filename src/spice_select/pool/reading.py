"""Inputs to conversations, row by row: of each input its format is found first, and its columns, then every row is
held to them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from spice_select.errors import PoolError
from spice_select.pool.formats import PROBED_ROWS, Format, find_format, to_conversation
from spice_select.pool.messages import Conversation
from spice_select.pool.problems import RowProblem, one_line
from spice_select.pool.readers import RawRow
from spice_select.pool.sources import Source
from spice_select.pool.types import PoolOptions, Rejection, SourceFile


@dataclass(frozen=True, slots=True)
class Origin:
    """What the rows of one input share.

    Attributes:
        label: how messages name the input.
        format: of its rows.
        columns: role -> column, of those that it has.

    """

    label: str
    format: Format
    columns: Mapping[str, str]

    def location(self, number: int, line: int) -> str:
        """Where a row is, for people; `line` is 0 where it says no more than `number`."""
        return _location(self.label, number, line)

    def conversation(self, data: Mapping[str, Any]) -> Conversation:
        """The chat of a row. Raises `RowProblem` where it does not hold what the format needs."""
        return to_conversation(data, self.format, self.columns)


@dataclass(frozen=True, slots=True)
class ChatRow:
    """A row that was read and holds what its format needs.

    Attributes:
        origin: its input.
        source: name of its data set.
        number: 1-based place in its file.
        line: of a text file, 0 where that says no more.
        data: its fields.
        name: the id it wants: its own, or made of source and number.
        conversation: its chat.

    """

    origin: Origin
    source: str
    number: int
    line: int
    data: dict[str, Any]
    name: str
    conversation: Conversation

    @property
    def location(self) -> str:
        """For people."""
        return self.origin.location(self.number, self.line)

    def rejected(self, reason: str) -> Rejection:
        """The row as one that is left out."""
        return Rejection(self.source, self.location, self.number, reason, self.data)


def read_chats(
    sources: Iterable[Source], options: PoolOptions, files: list[SourceFile]
) -> Iterator[ChatRow | Rejection]:
    """Every row of every input, in order; each input that was read is added to `files`.

    Raises:
        PoolError: an input cannot be read or is in no known format, or no input has a column of `options`.

    """
    mapped: set[str] = set()
    for source in sources:
        yield from _read_source(source, options, files, mapped)
    for role, name in options.columns.items():
        if role not in mapped:
            raise PoolError(f"columns: no input has a column '{name}' (given for '{role}').\nCheck its spelling.")


def _read_source(
    source: Source, options: PoolOptions, files: list[SourceFile], mapped: set[str]
) -> Iterator[ChatRow | Rejection]:
    """One input's rows; its record goes to `files`, and the columns options that it used to `mapped`."""
    rows = source.rows()
    first = _until_probed(rows)
    if not first:
        raise PoolError(f"{source.label}: holds no rows.")
    parsed = [row.data for row in first if row.data is not None]
    columns = {role: c for role, c in options.columns.items() if any(c in data for data in parsed)}
    mapped.update(columns)
    origin = (
        Origin(source.label, _format_of(source, parsed, rows, options.format, columns), columns) if parsed else None
    )
    count, digest = 0, hashlib.sha256()
    for row in chain(first, rows):
        count += 1
        if source.file is None:
            row, content = _as_json(row)
            digest.update(content)
        yield _chat(source, row, origin)
    sha256 = digest.hexdigest() if source.file is None else _file_digest(source.file)
    files.append(SourceFile(source.name, source.path, origin.format.name if origin else "none", count, sha256))


def _as_json(row: RawRow) -> tuple[RawRow, bytes]:
    """The row, or what is wrong with it, and its content for the digest of its input."""
    try:
        return row, json.dumps(row.data, sort_keys=True, default=str).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        return RawRow(row.number, None, problem=f"cannot be written as JSON: {one_line(str(error))}"), b"\n"


def _until_probed(rows: Iterator[RawRow]) -> list[RawRow]:
    """The rows from which the format is found: as many as it looks at, and those between that cannot be parsed."""
    first: list[RawRow] = []
    parsed = 0
    for row in rows:
        first.append(row)
        parsed += row.data is not None
        if parsed == PROBED_ROWS:
            break
    return first


def _format_of(
    source: Source,
    parsed: Sequence[Mapping[str, Any]],
    rest: Iterator[RawRow],
    name: str | None,
    columns: Mapping[str, str],
) -> Format:
    try:
        return find_format(source.label, parsed, name, columns)
    except PoolError:
        for _ in rest:  # an input that is damaged further on is told to be that first
            pass
        raise


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _chat(source: Source, row: RawRow, origin: Origin | None) -> ChatRow | Rejection:
    """The row with its chat; without an `origin` no row of its input could be parsed."""
    location, data = _location(source.label, row.number, row.line or 0), row.data
    if data is None or origin is None:
        reason = row.problem or "cannot be parsed"
        return Rejection(source.name, location, row.number, one_line(reason), row.raw)
    named = data.get(origin.columns.get("source", "source"))
    source_name = named if isinstance(named, str) and named.strip() else source.name
    try:
        conversation = origin.conversation(data)
    except RowProblem as problem:
        return Rejection(source_name, location, row.number, one_line(problem.reason), data)
    name = _given_id(data.get(origin.columns.get("id", "id"))) or f"{source_name}-{row.number}"
    return ChatRow(origin, source_name, row.number, row.line or 0, data, name, conversation)


def _given_id(value: object) -> str | None:
    usable = (isinstance(value, str) and value.strip()) or (isinstance(value, int) and not isinstance(value, bool))
    return str(value) if usable else None


def _location(label: str, number: int, line: int) -> str:
    return f"{label}, row {number} (line {line})" if line else f"{label}, row {number}"
