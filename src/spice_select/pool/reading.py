"""Inputs to conversations: of each input format and columns are found first, then every row is held to them."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from spice_select.errors import PoolError
from spice_select.files.records import file_digest
from spice_select.pool.formats import PROBED_ROWS, Layout, find_format, unused_columns
from spice_select.pool.messages import Conversation
from spice_select.pool.problems import MarkedRow, RawRow, RowProblem, one_line
from spice_select.pool.sources import Source
from spice_select.pool.types import PoolOptions, Rejection, SourceFile


@dataclass(frozen=True, slots=True)
class ChatRow:
    """A row that was read and holds what its format needs."""

    layout: Layout  # of its input
    source: str  # name of its data set
    location: str  # for people
    number: int  # 1-based place in its file
    data: dict[str, Any]  # its fields
    name: str  # the id it asks for: its own, or made of source and number
    conversation: Conversation

    def rejected(self, reason: str) -> Rejection:
        """The row as one that is left out."""
        return Rejection(self.source, self.location, self.number, one_line(reason, 300), self.data)


def read_chats(
    sources: Iterable[Source], options: PoolOptions, files: list[SourceFile]
) -> Iterator[ChatRow | Rejection]:
    """Every row of every input, in order; each input that was read is added to `files`.

    Raises `PoolError` if an input cannot be read or is in no known format, or no input has a column of `options`.
    """
    found, mapped = set[str](), set[str]()
    for source in sources:
        yield from _read_source(source, options, files, found, mapped)
    for role, name in options.columns.items():
        if role not in found:
            raise PoolError(f"columns: no input has a column '{name}' (given for '{role}').\nCheck its spelling.")
        if role not in mapped:
            raise PoolError(
                f"columns: '{role}' (column '{name}') does nothing, since the format of the files has no such field.\n"
                "docs/formats.md lists the fields of each format; --format chooses another."
            )


def _read_source(
    source: Source, options: PoolOptions, files: list[SourceFile], found: set[str], mapped: set[str]
) -> Iterator[ChatRow | Rejection]:
    """One input's rows; its record goes to `files`, roles of columns that it has to `found`, those used to `mapped`."""
    rows = source.rows()
    first = _until_probed(rows)
    if not first:
        raise PoolError(f"{source.label}: holds no rows.")
    layout = _find_layout(source.label, first, rows, options)
    found.update(layout.columns if layout else ())
    mapped.update(set(layout.columns) & {*layout.format.roles, "id", "source"} if layout else ())
    total, digest, unused = 0, hashlib.sha256(), Counter[str]()
    used = layout.used_columns() if layout else frozenset[str]()
    for row in chain(first, rows):
        total += 1
        if source.file is None:
            row, content = _as_json(row)
            digest.update(content)
        unused.update(unused_columns(row.data or {}, used))
        yield _chat(source, row, layout)
    sha256 = digest.hexdigest() if source.file is None else file_digest(source.file)
    name = layout.format.name if layout else "none"
    files.append(SourceFile(source.name, source.path, name, total, sha256, dict(unused.most_common())))


def _as_json(row: RawRow) -> tuple[RawRow, bytes]:
    """The row, or what is wrong with it, and its content for the digest of its input."""
    try:
        return row, json.dumps(row.data, sort_keys=True, default=str).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        return RawRow(row.number, None, problem=f"cannot be written as JSON: {one_line(str(error))}"), b"\n"


def _until_probed(rows: Iterator[RawRow]) -> list[RawRow]:
    """The rows from which the format is found, and those between them that cannot be parsed."""
    first: list[RawRow] = []
    parsed = 0
    for row in rows:
        first.append(row)
        parsed += row.data is not None
        if parsed == PROBED_ROWS:
            break
    return first


def _find_layout(label: str, first: list[RawRow], rest: Iterator[RawRow], options: PoolOptions) -> Layout | None:
    """Format and columns of an input; None if no row could be parsed."""
    parsed = [row.data for row in first if row.data is not None]
    if not parsed:
        return None
    columns = {role: name for role, name in options.columns.items() if any(name in data for data in parsed)}
    try:
        return Layout(find_format(label, parsed, options.format, columns), columns)
    except PoolError:
        for _ in rest:  # damage further on is the likelier cause, and raises here
            pass
        raise


def _chat(source: Source, row: RawRow, layout: Layout | None) -> ChatRow | Rejection:
    """The row with its chat; without a `layout` no row of its input could be parsed."""
    location = f"{source.label}, row {row.number}" + (f" (line {row.line})" if row.line else "")
    data = row.data
    if data is None or layout is None:
        return Rejection(source.name, location, row.number, one_line(row.problem), row.text)
    named = data.get(layout.column("source"))
    source_name = named if isinstance(named, str) and named.strip() else source.shards or source.name
    try:
        conversation = layout.conversation(data)
    except RowProblem as problem:
        marked = isinstance(problem, MarkedRow)
        return Rejection(source_name, location, row.number, one_line(problem.reason), data, marked)
    name = _own_id(data.get(layout.column("id"))) or f"{source_name}-{row.number}"
    return ChatRow(layout, source_name, location, row.number, data, name, conversation)


def _own_id(value: object) -> str | None:
    usable = (isinstance(value, str) and value.strip()) or (isinstance(value, int) and not isinstance(value, bool))
    return str(value) if usable else None
