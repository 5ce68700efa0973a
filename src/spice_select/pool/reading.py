"""Inputs to conversations: of each input format and columns are found first, then every row is held to them."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from spice_select.errors import ConfigError, PoolError
from spice_select.file_options import FileOptions
from spice_select.files.records import file_digest
from spice_select.pool.formats import PROBED_ROWS, Layout, unused_columns
from spice_select.pool.layouts import REJECTED, Layouts, find_layouts
from spice_select.pool.messages import Conversation
from spice_select.pool.problems import MarkedRow, RawRow, RowProblem, one_line
from spice_select.pool.sources import Source
from spice_select.pool.types import PoolOptions, Rejection, SourceFile

MARKED, BEFORE = "marked in the data", "before the answer"
"""Why assistant turns are context: the latter in a `prompt`, or earlier in a preferred chat."""


@dataclass(frozen=True, slots=True)
class ChatRow:
    """A row that was read and holds what its format needs."""

    layout: Layout  # by which it was read
    source: str  # name of its data set
    location: str  # for people
    number: int  # 1-based place in its file
    data: dict[str, Any]  # its fields
    name: str  # the id it asks for: its own, or made of source and number
    conversation: Conversation

    def rejected(self, reason: str) -> Rejection:
        """The row as one that is left out."""
        return Rejection(self.source, self.location, self.number, one_line(reason, 300).rstrip("."), self.data)


def read_chats(
    sources: Sequence[Source], options: PoolOptions, files: list[SourceFile]
) -> Iterator[ChatRow | Rejection]:
    """Every row of every input, in order; each input that was read is added to `files`.

    Raises `PoolError` if an input cannot be read or is in no known format, `ConfigError` if `options` name an input or
    a column that there is not, or that does nothing.
    """
    found, mapped = set[tuple[str, str]](), set[tuple[str, str]]()
    for source, own in _with_options(sources, options):
        reading = FileOptions(own.format or options.format, {**options.columns, **own.columns})
        here, used = set[tuple[str, str]](), set[tuple[str, str]]()
        yield from _read_source(source, reading, files, here, used)
        for column in own.columns.items():
            _check_column(column, here, used, f"{source.label}: has no")
        found, mapped = found | here, mapped | used
    for column in options.columns.items():
        _check_column(column, found, mapped, "columns: no input has a")


def _check_column(
    column: tuple[str, str], found: Collection[tuple[str, str]], mapped: Collection[tuple[str, str]], lacks: str
) -> None:
    role, name = column
    if column not in found:
        raise PoolError(f"{lacks} column '{name}' (given for '{role}').\nCheck its spelling.")
    if column not in mapped:
        raise PoolError(
            f"columns: '{role}' (column '{name}') does nothing, since the format of the files has no such field.\n"
            "docs/formats.md lists the fields of each format; --format chooses another."
        )


def _with_options(sources: Sequence[Source], options: PoolOptions) -> list[tuple[Source, FileOptions]]:
    """Each source with the options that hold for it."""
    for name in options.per_file:
        if not any(source.is_meant(name) for source in sources):
            labels, name = one_line(", ".join(source.label for source in sources), 400), one_line(name, 100)
            raise ConfigError(f"No input is called '{name}', for which a format or column is given.\nInputs: {labels}.")
    found: list[tuple[Source, FileOptions]] = []
    for source in sources:
        names = [name for name in options.per_file if source.is_meant(name)]
        if len(names) > 1:
            raise ConfigError(
                f"'{names[0]}' and '{names[1]}', for which a format or a column is given, both mean {source.label}.\n"
                "Use one name."
            )
        found.append((source, options.per_file[names[0]] if names else FileOptions()))
    return found


def _read_source(
    source: Source,
    options: FileOptions,
    files: list[SourceFile],
    found: set[tuple[str, str]],
    mapped: set[tuple[str, str]],
) -> Iterator[ChatRow | Rejection]:
    """One input's rows; its record goes to `files`, columns that it has to `found`, those that it uses to `mapped`."""
    rows = source.rows()
    first = _until_probed(rows)
    if not first:
        raise PoolError(f"{source.label}: holds no rows.")
    layouts = _find_layouts(source, first, rows, options)
    main = layouts.main if layouts else None
    total, digest, unused, formats = 0, hashlib.sha256(), Counter[str](), Counter[str]()
    used = layouts.used_columns() if layouts else {REJECTED: frozenset[str]()}
    names, untrained = set[str](), Counter[str]()
    for row in chain(first, rows):
        total += 1
        if source.file is None:
            row, content = _as_json(row)
            digest.update(content)
        item = _chat(source, row, layouts)
        name = REJECTED
        if isinstance(item, ChatRow):
            name, chat = item.layout.format.name, item.conversation
            names.update(item.data)
            if chat.untrained:
                untrained.update({MARKED: len(chat.marked), BEFORE: len(chat.untrained) - len(chat.marked)})
        formats[name] += 1
        unused.update(unused_columns(row.data or {}, used[name]))
        yield item
    del formats[REJECTED]
    if layouts:
        read = [layouts.all[name] for name in formats] or ([main] if main else [])
        roles = {"id", "source", *(role for layout in read for role in layout.format.roles)}
        found.update(layouts.columns.items())
        mapped.update((role, name) for role, name in layouts.columns.items() if role in roles)
    files.append(
        SourceFile(
            source.name,
            source.path,
            "mixed" if len(formats) > 1 else next(iter(formats), main.format.name if main else "none"),
            total,
            digest.hexdigest() if source.file is None else file_digest(source.file),
            dict(unused.most_common()),
            dict(formats.most_common()),
            sorted(names.intersection(frozenset[str]().union(*(used[name] for name in formats)))),
            {why: count for why, count in untrained.items() if count},
            source.label,
        )
    )


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


def _find_layouts(source: Source, first: list[RawRow], rest: Iterator[RawRow], options: FileOptions) -> Layouts | None:
    """Format and columns of an input; None if no row could be parsed."""
    parsed = [row.data for row in first if row.data is not None]
    if not parsed:
        return None
    columns = {role: name for role, name in options.columns.items() if any(name in data for data in parsed)}
    try:
        return find_layouts(source.label, parsed, options.format, columns, source.filled_nulls)
    except PoolError:
        for _ in rest:  # damage further on is the likelier cause, and raises here
            pass
        raise


def _chat(source: Source, row: RawRow, layouts: Layouts | None) -> ChatRow | Rejection:
    """The row with its chat; without `layouts` no row of its input could be parsed."""
    location = f"{source.label}, row {row.number}" + (f" (line {row.line})" if row.line else "")
    data = row.data
    if data is None or layouts is None:
        return Rejection(source.name, location, row.number, one_line(row.problem), row.text)
    named = data.get(layouts.columns.get("source", "source"))
    source_name = named if isinstance(named, str) and named.strip() else source.shards or source.name
    try:
        layout, conversation = layouts.read(data)
    except RowProblem as problem:
        marked = isinstance(problem, MarkedRow)
        return Rejection(source_name, location, row.number, one_line(problem.reason), data, marked)
    name = _own_id(data.get(layout.column("id"))) or f"{source_name}-{row.number}"
    return ChatRow(layout, source_name, location, row.number, data, name, conversation)


def _own_id(value: object) -> str | None:
    usable = (isinstance(value, str) and value.strip()) or (isinstance(value, int) and not isinstance(value, bool))
    return str(value) if usable else None
