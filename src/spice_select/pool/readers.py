"""Files to rows: JSON Lines, JSON arrays, CSV (each also gzipped) and Parquet, read as they are.

A reader yields one `RawRow` for each row. A row that cannot be parsed, while those after it can, is yielded
with a `problem`; damage that hides where the next row starts (a torn gzip stream, a broken JSON array, an
unclosed CSV quote) raises `PoolError`, because reading on would lose rows in silence.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from spice_select.errors import PoolError
from spice_select.pool.problems import one_line

_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_BOM = b"\xef\xbb\xbf"
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
    with _open(path) as stream:
        for line_number, line in _lines(path, stream):
            if not line.strip():
                continue
            number += 1
            yield _parse_line(line, number, line_number if line_number != number else None)


def read_json(path: Path) -> Iterator[RawRow]:
    """A JSON array of objects; JSON Lines under a `.json` name is read too, one object is not."""
    text = _whole_text(path)
    position = _skip_space(text, 0)
    if text.startswith("[", position):
        yield from _array(path, text, position + 1)
    elif _is_one_value(text):
        fields = _fields_of_one_object(text)
        raise PoolError(
            f"{path.name}: holds {fields}, not rows.\n"
            "A .json pool is a list of objects; write that list alone to the file (or one object a line as .jsonl)."
        )
    else:
        yield from read_jsonl(path)


def read_csv(path: Path) -> Iterator[RawRow]:
    """Comma-separated text with a header line; every value is text, a cell that the row lacks is None."""
    count = 0
    with _open(path) as stream, _long_cells():
        lines = (_decoded(path, line, number) for number, line in _lines(path, stream))
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, None)
            _check_header(path, header)
            assert header is not None
            for cells in reader:
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
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in cast("Iterable[Any]", file.iter_batches(batch_size=1024)):
                for data in cast("list[dict[str, Any]]", batch.to_pylist()):
                    number += 1
                    yield RawRow(number, data)
    except _ARROW_ERRORS as error:
        raise PoolError(
            f"{path.name}: cannot be read as Parquet after row {number}: {one_line(str(error))}\n"
            "The file is damaged or of another kind; copy it again."
        ) from error


READERS: Mapping[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def _lines(path: Path, stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines with their 1-based numbers, the byte order mark taken off."""
    number = 0
    try:
        for line in stream:
            number += 1
            yield number, line.removeprefix(_BOM) if number == 1 else line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken_gzip(path, number, error) from error


def _broken_gzip(path: Path, line: int, error: Exception) -> PoolError:
    place = f" after line {line}" if line else ""
    return PoolError(
        f"{path.name}: broken gzip stream{place}: {one_line(str(error))}.\n"
        "The file is damaged, cut short, or not gzip; copy it again."
    )


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
    # Only a \ud8xx escape can bring a lone surrogate in, and only then is the whole row worth another look.
    if "\\ud" in text.lower() and _LONE_SURROGATE.search(json.dumps(row, ensure_ascii=False)):
        return RawRow(number, None, text, "holds half of a surrogate pair (a broken \\u escape)", line_number)
    return RawRow(number, row, line=line_number)


def _kind(value: object) -> str:
    return _JSON_KINDS.get(type(value), type(value).__name__)


def _whole_text(path: Path) -> str:
    try:
        with _open(path) as stream:
            data = stream.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken_gzip(path, 0, error) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PoolError(
            f"{path.name}: invalid UTF-8 at byte {error.start + 1} (line {line}).\nSave the file as UTF-8."
        ) from error


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _array(path: Path, text: str, position: int) -> Iterator[RawRow]:
    """Elements of the array one by one, so that damage is reported with its row."""
    decoder = json.JSONDecoder()
    number = 0
    position = _skip_space(text, position)
    if text.startswith("]", position):
        return
    while True:
        number += 1
        try:
            start = _skip_space(text, position)
            value, position = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            raise PoolError(
                f"{path.name}, row {number}: broken JSON: {one_line(str(error))}.\n"
                "Nothing after it can be read; mend the file there."
            ) from error
        yield _object_row(value, text[start:position], number)
        position = _skip_space(text, position)
        if text.startswith("]", position):
            break
        if not text.startswith(",", position):
            line = text.count("\n", 0, position) + 1
            raise PoolError(
                f"{path.name}, row {number}: broken JSON: ',' or ']' expected after it (line {line}).\n"
                "Nothing after it can be read; mend the file there."
            )
        position += 1
    if text[position + 1 :].strip():
        raise PoolError(f"{path.name}: text follows the end of the JSON array (after row {number}).\nRemove it.")


def _is_one_value(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _fields_of_one_object(text: str) -> str:
    value = json.loads(text)
    if not isinstance(value, dict):
        return _kind(value)
    fields = ", ".join(str(key) for key in cast("dict[str, Any]", value))
    return f"one object (fields: {one_line(fields) or 'none'})"


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
