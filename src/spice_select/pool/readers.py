"""Files to rows: JSON Lines, JSON arrays, CSV (each also gzipped) and Parquet, read as they are.

A reader yields one `RawRow` for each row. A row that cannot be parsed, while those after it can, is yielded
with a `problem`; damage that hides where the next row starts (a torn gzip stream, a broken JSON array, an
unclosed CSV quote) raises `PoolError`, because reading on would lose rows in silence.
"""

import csv
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from spice_select.errors import PoolError
from spice_select.pool import streams
from spice_select.pool.arrays import Window, elements
from spice_select.pool.nesting import TOO_DEEP, may_be_too_deep, too_deep
from spice_select.pool.problems import one_line
from spice_select.pool.streams import lines, opened, refuse_bomb, too_long

_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SHOWN = 1000  # characters of an overlong row that are kept as what could not be parsed
BATCH = 128
"""Rows of an Arrow table turned into Python values at once."""
_ARROW_ERRORS: tuple[type[Exception], ...] = (cast("type[Exception]", pa.ArrowException), OSError, UnicodeDecodeError)
_JSON_KINDS: Mapping[type, str] = {
    list: "a list",
    dict: "an object",
    str: "text",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as read.

    Attributes:
        number: 1-based place among the rows of its file (blank lines are not rows).
        data: the row's fields, or None where it could not be parsed.
        raw: what could not be parsed, as text.
        problem: why it could not be parsed.
        line: 1-based line of a text file, where that says more than `number`.

    """

    number: int
    data: dict[str, Any] | None
    raw: str = ""
    problem: str | None = None
    line: int | None = None


def read_jsonl(path: Path) -> Iterator[RawRow]:
    """One JSON object a line, UTF-8, with or without a byte order mark; blank lines are ignored."""
    number = 0
    with opened(path) as stream:
        for line_number, line, whole in lines(path, stream):
            if whole and not line.strip():
                continue
            number += 1
            shown = line_number if line_number != number else None
            yield _parse_line(line, number, shown) if whole else _long_line(line, number, shown)


def read_json(path: Path) -> Iterator[RawRow]:
    """A JSON array of objects; JSON Lines under a `.json` name is read too, one object is not."""
    with opened(path) as stream:
        window = Window(path, stream)
        start = window.after_space(0)
        if window.text.startswith("[", start):
            for number, value, text in elements(window, start + 1):
                yield _object_row(value, text, number)
            return
        fields = _of_one_value(window, start)
    if fields is not None:
        raise PoolError(
            f"{path.name}: holds {fields}, not rows.\n"
            "A .json pool is a list of objects; write that list alone to the file (or one object a line as .jsonl)."
        )
    yield from read_jsonl(path)


def read_csv(path: Path) -> Iterator[RawRow]:
    """Comma-separated text with a header line; every value is text, a cell that the row lacks is None."""
    count = 0
    with opened(path) as stream, _long_cells():
        text = _Lines(path, lines(path, stream))
        reader = csv.reader(text, strict=True)
        try:
            header = next(reader, None)
            _check_header(path, header)
            assert header is not None
            for cells in reader:
                text.begin_row()
                if not cells:
                    continue
                count += 1
                yield _csv_row(header, cells, count, reader.line_num)
        except csv.Error as error:
            raise PoolError(
                f"{path.name}, row {count + 1} (line {reader.line_num}): broken CSV: {error}.\n"
                "Quote cells that hold commas, quotes or newlines, and double the quotes inside them."
            ) from error


def read_parquet(path: Path) -> Iterator[RawRow]:
    """A Parquet file, row groups in order."""
    number = decoded = 0
    remedy = "If it is meant to be like that, write its rows to a .jsonl file and name that."
    try:
        with pq.ParquetFile(path) as file:
            for batch in cast("Iterable[Any]", file.iter_batches(batch_size=BATCH)):
                decoded += _size(batch)
                refuse_bomb(path, decoded, path.stat().st_size, remedy)
                for row in rows_of_batch(batch, number):
                    number = row.number
                    yield row
    except _ARROW_ERRORS as error:
        raise PoolError(
            f"{path.name}: cannot be read as Parquet after row {number}: {one_line(str(error))}\n"
            "The file is damaged or of another kind; copy it again."
        ) from error


def rows_of_batch(batch: Any, before: int) -> Iterator[RawRow]:
    """The rows of an Arrow batch or table, numbered from `before` + 1."""
    large = _size(batch) > streams.ROW_BYTES
    rows = _one_by_one(batch) if large else cast("list[dict[str, Any]]", batch.to_pylist())
    for number, row in enumerate(rows, start=before + 1):
        yield _checked_row(row, number)


def _size(batch: Any) -> int:
    """Bytes of an Arrow batch; those of all its buffers for the newer types whose own part Arrow cannot tell."""
    try:
        return int(batch.nbytes)
    except cast("type[Exception]", pa.ArrowException):
        return int(batch.get_total_buffer_size())


def _one_by_one(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of an Arrow batch; None in place of one that is too long."""
    for place in range(batch.num_rows):
        row = batch.slice(place, 1)
        yield None if _size(row) > streams.ROW_BYTES else row.to_pylist()[0]


def _checked_row(row: dict[str, Any] | None, number: int) -> RawRow:
    if row is None:
        return RawRow(number, None, "", too_long("it"))
    if too_deep(row):
        return RawRow(number, None, "", TOO_DEEP)
    return RawRow(number, row)


READERS: Mapping[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def _long_line(line: bytes, number: int, line_number: int | None) -> RawRow:
    shown = line[:_SHOWN].decode("utf-8", errors="replace").strip()
    return RawRow(number, None, shown, too_long("it"), line_number)


def _parse_line(line: bytes, number: int, line_number: int | None) -> RawRow:
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
    return _object_row(data, text, number, line_number)


def _object_row(data: object, text: str, number: int, line_number: int | None = None) -> RawRow:
    if not isinstance(data, dict):
        return RawRow(number, None, text, f"is {_kind(data)}, not an object of fields", line_number)
    row = cast("dict[str, Any]", data)
    if may_be_too_deep(text) and too_deep(row):
        return RawRow(number, None, text, TOO_DEEP, line_number)
    # Only a \ud8xx escape can bring a lone surrogate in, and only then is the whole row worth another look.
    if "\\ud" in text.lower() and _LONE_SURROGATE.search(json.dumps(row, ensure_ascii=False)):
        return RawRow(number, None, text, "holds half of a surrogate pair (a broken \\u escape)", line_number)
    return RawRow(number, row, line=line_number)


def _kind(value: object) -> str:
    return _JSON_KINDS.get(type(value), type(value).__name__)


def _of_one_value(window: Window, start: int) -> str | None:
    """What a file holds that is one JSON value; None where it is none, or more than one."""
    try:
        value, end = window.decode(json.JSONDecoder(), start)
    except (ValueError, RecursionError):
        return None
    if window.after_space(end) < len(window.text):
        return None
    if not isinstance(value, dict):
        return _kind(value)
    fields = ", ".join(str(key) for key in cast("dict[str, Any]", value))
    return f"one object (fields: {one_line(fields) or 'none'})"


class _Lines:
    """The lines of a CSV file as text; those of one row may not be longer together than a row may be."""

    def __init__(self, path: Path, found: Iterator[tuple[int, bytes, bool]]) -> None:
        self._path, self._found = path, found
        self._row = 0  # bytes of the row so far

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line, whole = next(self._found)
        self._row += len(line)
        if not whole or self._row > streams.ROW_BYTES + 2:
            raise PoolError(
                f"{self._path.name}, line {number}: {too_long('its row')}.\n"
                "Close the quote that may be open there, or shorten the row."
            )
        return _decoded(self._path, line, number)

    def begin_row(self) -> None:
        """What was read is a whole row."""
        self._row = 0


@contextmanager
def _long_cells() -> Generator[None]:
    """Lift the csv module's limit of 131,072 characters a cell, which long answers exceed."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _decoded(path: Path, line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PoolError(
            f"{path.name}, line {number}: invalid UTF-8 at byte {error.start + 1}.\nSave the file as UTF-8."
        ) from error


def _check_header(path: Path, header: list[str] | None) -> None:
    if not header:
        raise PoolError(f"{path.name}: holds no rows.\nA CSV pool starts with a line of column names.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise PoolError(f"{path.name}: the header names column '{twice[0]}' twice.\nRename one of them.")


def _csv_row(header: list[str], cells: list[str], number: int, line: int) -> RawRow:
    if len(cells) > len(header):
        problem = f"has {len(cells)} cells, the header {len(header)}"
        return RawRow(number, None, ",".join(cells), problem, line)
    values: list[str | None] = [*cells, *[None] * (len(header) - len(cells))]
    return RawRow(number, dict(zip(header, values, strict=True)), line=line)
