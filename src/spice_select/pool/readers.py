"""Files to rows: JSON Lines, JSON arrays, CSV (each also gzipped) and Parquet, read as they are.

A reader yields one `RawRow` for each row. A row that cannot be parsed, while those after it can, is yielded
with a `problem`; damage that hides where the next row starts (a torn gzip stream, a broken JSON array, an
unclosed CSV quote) raises `PoolError`, because reading on would lose rows in silence.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from spice_select.errors import PoolError
from spice_select.pool import streams
from spice_select.pool.arrow_rows import read_parquet
from spice_select.pool.json_arrays import JsonText, elements
from spice_select.pool.problems import one_line
from spice_select.pool.raw_rows import RawRow, kind_of, raw_row
from spice_select.pool.streams import lines, opened, too_long

_SHOWN = 1000  # characters of an overlong row that are kept as what could not be parsed


def read_jsonl(path: Path) -> Iterator[RawRow]:
    """One JSON object a line, UTF-8, with or without a byte order mark; blank lines are ignored."""
    number = 0
    with opened(path) as stream:
        for line_number, line, whole in lines(path, stream):
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
    with opened(path) as stream:
        text = JsonText(path, stream)
        if text.skip("["):
            for number, value, written in elements(text):
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
    with opened(path) as stream, ExitStack() as after:
        # Long answers exceed the module's limit of 131,072 characters a cell.
        after.callback(csv.field_size_limit, csv.field_size_limit(2**31 - 1))
        text = _CsvLines(path, lines(path, stream))
        reader = csv.DictReader(text, strict=True)  # cells beyond the header's are a list under the key None
        try:
            _check_header(path, reader.fieldnames)
            text.row_bytes = 0
            for row in cast("Iterator[dict[str | None, Any]]", reader):
                text.row_bytes = 0
                number += 1
                yield _csv_row(row, number, text.line)
        except csv.Error as error:
            raise PoolError(
                f"{path.name}, row {number + 1} (line {text.line}): broken CSV: {error}.\n"
                "Quote cells that hold commas, quotes or newlines, and double the quotes inside them."
            ) from error


READERS: Mapping[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def _parse_line(line: bytes, number: int, line_number: int) -> RawRow:
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raw = line.decode("utf-8", errors="replace").strip()
        return RawRow(number, None, raw, f"invalid UTF-8 at byte {error.start + 1}", line_number)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = f"broken JSON: {one_line(str(error))}"
        if number == 1 and text.startswith("["):
            problem += " (a JSON array of rows belongs in a .json file)"
        return RawRow(number, None, text, problem, line_number)
    return raw_row(number, data, text, line_number)


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


class _CsvLines:
    """The lines of a CSV file as text; the lines of one row are together no longer than a row may be."""

    def __init__(self, path: Path, numbered: Iterator[tuple[int, bytes, bool]]) -> None:
        self._path, self._numbered = path, numbered
        self.row_bytes = 0  # of the row so far; the reader of rows sets it back
        self.line = 0  # 1-based number of the last line given

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.line, line, whole = next(self._numbered)
        self.row_bytes += len(line)
        if not whole or self.row_bytes > streams.ROW_BYTES + 2:
            raise PoolError(
                f"{self._path.name}, line {self.line}: {too_long('its row')}.\n"
                "Close the quote that may be open there, or shorten the row."
            )
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = f"invalid UTF-8 at byte {error.start + 1}.\nSave the file as UTF-8."
            raise PoolError(f"{self._path.name}, line {self.line}: {problem}") from error


def _check_header(path: Path, header: Sequence[str] | None) -> None:
    if not header:
        raise PoolError(f"{path.name}: holds no rows.\nA CSV pool starts with a line of column names.")
    repeated = next((name for name in sorted(header) if header.count(name) > 1), None)
    if repeated is not None:
        raise PoolError(f"{path.name}: the header names column '{repeated}' twice.\nRename one of them.")


def _csv_row(row: dict[str | None, Any], number: int, line: int) -> RawRow:
    extra = cast("list[str]", row.pop(None, []))
    if extra:
        cells = ",".join([*row.values(), *extra])
        return RawRow(number, None, cells, f"has {len(row) + len(extra)} cells, the header {len(row)}", line)
    return RawRow(number, cast("dict[str, Any]", row), line=line)
