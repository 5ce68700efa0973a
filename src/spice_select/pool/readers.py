"""Files to rows: JSON Lines, JSON arrays, CSV (each also gzipped) and Parquet, read as they are.

A reader yields one `RawRow` for each row. A row that cannot be parsed, while those after it can, is yielded
with a `problem`; damage that hides where the next row starts (a torn gzip stream, a broken JSON array, an
unclosed CSV quote) raises `PoolError`, because reading on would lose rows in silence.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

from spice_select.errors import PoolError
from spice_select.pool import streams
from spice_select.pool.arrow_rows import read_arrow, read_parquet
from spice_select.pool.json_arrays import JsonText
from spice_select.pool.problems import RawRow, kind_of, one_line, raw_row
from spice_select.pool.streams import PoolFile, too_long

_SHOWN = 1000  # characters of an overlong row that are kept as what could not be parsed


def read_jsonl(path: Path) -> Iterator[RawRow]:
    """One JSON object a line, UTF-8, with or without a byte order mark; blank lines are ignored."""
    number = 0
    with closing(PoolFile(path)) as file:
        for line_number, (line, whole) in enumerate(file.lines(), start=1):
            if whole and not line.strip():
                continue
            number += 1
            shown = line_number if line_number != number else 0
            if whole:
                yield _parse_line(line, number, shown)
            else:
                beginning = line[:_SHOWN].decode("utf-8", errors="replace").strip()
                yield RawRow(number, None, beginning, too_long("it"), shown)


def read_json(path: Path) -> Iterator[RawRow]:
    """A JSON array of objects; JSON Lines under a `.json` name is read too, one object is not."""
    with closing(PoolFile(path)) as file:
        text = JsonText(file)
        if text.skip("["):
            for number, value, written in text.elements():
                yield raw_row(number, value, written)
            return
        content = _single_value(text)
    if content is not None:
        raise PoolError(
            f"{path.name}: holds {content}, not rows.\n"
            "A .json pool is a list of objects; write that list alone to the file (or one object a line as .jsonl)."
        )
    yield from read_jsonl(path)


def read_csv(path: Path) -> Iterator[RawRow]:
    """Comma-separated text with a header line; every value is text, a cell that the row lacks is None."""
    number = 0
    with closing(PoolFile(path)) as file, ExitStack() as after:
        # Long answers exceed the module's limit of 131,072 characters a cell; a quote left open ends in this one.
        after.callback(csv.field_size_limit, csv.field_size_limit(streams.ROW_BYTES))
        row_bytes = [0]
        reader = csv.reader(_csv_lines(file, row_bytes), strict=True)
        try:
            header = _checked_header(path, next(reader, None))
            for cells in filter(None, reader):
                number, line, row_bytes[0] = number + 1, reader.line_num, 0
                if len(cells) > len(header):
                    problem = f"has {len(cells)} cells, the header {len(header)}"
                    yield RawRow(number, None, ",".join(cells), problem, line)
                else:
                    yield RawRow(number, dict(zip_longest(header, cells)), line=line)
        except csv.Error as error:
            reason = too_long("a cell") if "field limit" in str(error) else str(error)
            raise PoolError(
                f"{path.name}, row {number + 1} (line {reader.line_num}): broken CSV: {reason}.\n"
                "Quote cells that hold commas, quotes or newlines, double quotes inside them, and close every quote."
            ) from error


READERS: Mapping[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": read_jsonl,
    ".jsonlines": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
WHOLE = (".parquet", ".arrow")
"""Kinds of files that are compressed inside, never as a whole."""


def _parse_line(line: bytes, number: int, line_number: int) -> RawRow:
    try:
        text = line.decode("utf-8").strip().removeprefix("\ufeff")  # files that were joined have one inside
    except UnicodeDecodeError as error:
        raw = line.decode("utf-8", errors="replace").strip()
        return RawRow(number, None, raw, f"invalid UTF-8 at byte {error.start + 1}", line_number)
    array = " (a JSON array of rows belongs in a .json file)" if number == 1 and text.startswith("[") else ""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = f"broken JSON: {one_line(str(error))}{array}"
        if "Extra data" in problem and text.startswith("{"):
            problem += " (two rows on one line: a line break is missing between files that were joined)"
        return RawRow(number, None, text, problem, line_number)
    row = raw_row(number, data, text, line_number)
    return replace(row, problem=row.problem + array) if array else row


def _single_value(text: JsonText) -> str | None:
    """The content of a file that is one JSON value, in words; None where it holds none, or several."""
    try:
        value, _ = text.value(1)
    except PoolError:
        return None
    if text.peek():
        return None
    if not isinstance(value, dict):
        return kind_of(value)
    fields = ", ".join(str(key) for key in cast("dict[str, Any]", value))
    return f"one object (fields: {one_line(fields) or 'none'})"


def _csv_lines(file: PoolFile, row_bytes: list[int]) -> Iterator[str]:
    """The lines as text; `row_bytes` counts those of one row together, which its reader sets back to 0."""
    for number, (line, whole) in enumerate(file.lines(), start=1):
        row_bytes[0] += len(line)
        if not whole or row_bytes[0] > streams.ROW_BYTES + 2:
            raise PoolError(
                f"{file.path.name}, line {number}: {too_long('its row')}.\nClose the quote that may be open there, or "
                "shorten the row."
            )
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = f"invalid UTF-8 at byte {error.start + 1}.\nSave the file as UTF-8."
            raise PoolError(f"{file.path.name}, line {number}: {problem}") from error


def _checked_header(path: Path, header: list[str] | None) -> list[str]:
    if not header:
        raise PoolError(f"{path.name}: holds no rows.\nA CSV pool starts with a line of column names.")
    repeated = next((name for name in sorted(header) if header.count(name) > 1), None)
    if repeated is not None:
        raise PoolError(f"{path.name}: the header names column '{repeated}' twice.\nRename one of them.")
    return header
