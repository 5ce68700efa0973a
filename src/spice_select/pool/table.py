"""The usable rows of a pool, in one Arrow IPC file that is read through a memory map.

Rows are written batch by batch while the pool is read. The file has no name: it is gone from its folder (`TMPDIR`)
before the first byte is written, so nothing is left behind however the process ends, killed included. In memory are
a few numbers a row; an `Example` reads the rest when it is asked for it.
"""

# pyarrow ships no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUnknownLambdaType=false

import mmap
import tempfile
from bisect import bisect_left
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spice_select.errors import PoolError
from spice_select.pool.encoding import Encoded, TokenIds, TokenMask
from spice_select.pool.formats import Layout
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.messages import Conversation
from spice_select.pool.reading import ChatRow
from spice_select.pool.types import Line, Listing, Rejection, Row, SourceFile
from spice_select.pool.values import UTF8, RowCodec

_SCHEMA = pa.schema({
    "row": pa.large_binary(),  # as `RowCodec` encodes it
    "name": pa.large_binary(),  # the id that the row asks for
    "source": pa.large_binary(),
    "location": pa.large_binary(),
    "number": pa.int64(),
    "layout": pa.int32(),  # place in a list
    "ids": pa.large_binary(),  # int32; a trained token is stored as its complement, which is negative
    "tokens": pa.int32(),
    "trained_tokens": pa.int32(),
    "truncated": pa.bool_(),
})  # fmt: skip


class TableWriter:
    """Takes in batches of rows; a context that closes the file, which a `Table` of it outlives."""

    def __init__(self, max_length: int) -> None:
        """Make the file, for rows of at most `max_length` tokens. Raises `PoolError` where that is impossible."""
        self._max_length = max_length
        self._codec, self._layouts = RowCodec(), list[Layout]()
        self._places = dict[int, int]()  # id of a layout -> its place; the list keeps the id from being reused
        with _disk_errors():
            self._file = cast(IO[bytes], tempfile.TemporaryFile(buffering=1 << 20))  # noqa: SIM115 - see __exit__
            self._writer = pa.ipc.new_file(self._file, _SCHEMA)

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file; what is buffered but not in a table need not fit on the disk."""
        with suppress(OSError):
            self._file.close()

    def write(self, rows: Sequence[tuple[ChatRow, Encoded]]) -> None:
        """Append rows. Raises `PoolError` where the disk is full."""
        records = [self._record(chat, tokens) for chat, tokens in rows]
        with _disk_errors():
            self._writer.write_batch(pa.RecordBatch.from_pylist(records, schema=_SCHEMA))

    def table(self) -> "Table":
        """All rows, after which none can be written. Raises `PoolError` where the disk is full."""
        with _disk_errors():
            self._writer.close()
            self._file.flush()
            content = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return Table(pa.ipc.open_file(pa.py_buffer(content)).read_all(), self._layouts, self._codec)

    def _record(self, chat: ChatRow, encoded: Encoded) -> dict[str, Any]:
        ids, trained = encoded.input_ids[: self._max_length], encoded.trained[: self._max_length]
        layout = self._places.setdefault(id(chat.layout), len(self._layouts))
        if layout == len(self._layouts):
            self._layouts.append(chat.layout)
        return {
            "row": self._codec.encode(chat.data),
            "name": chat.name.encode(*UTF8),
            "source": chat.source.encode(*UTF8),
            "location": chat.location.encode(*UTF8),
            "number": chat.number,
            "layout": layout,
            "ids": np.where(trained, ~ids, ids).tobytes(),
            "tokens": len(ids),
            "trained_tokens": int(trained.sum()),
            "truncated": len(encoded.input_ids) > self._max_length,
        }


class Table:
    """The columns of all rows. In memory are `tokens` and `trained_tokens`, [n] int32, and `truncated`, [n] bool."""

    def __init__(self, content: pa.Table, layouts: Sequence[Layout], codec: RowCodec) -> None:
        """`content` has the columns of `_SCHEMA`; `layouts` and `codec` are those that wrote it."""
        self._content = content
        self.layouts, self.codec = layouts, codec
        self.tokens: NDArray[np.int32] = content["tokens"].to_numpy()
        self.trained_tokens: NDArray[np.int32] = content["trained_tokens"].to_numpy()
        self.truncated: NDArray[np.bool_] = content["truncated"].to_numpy()
        self._suffixes = unique_suffixes(content["name"])

    def __len__(self) -> int:
        return len(self.tokens)

    def value(self, column: str, place: int) -> Any:
        """A number or bytes of the row at `place`."""
        return self._content[column][place].as_py()

    def text(self, column: str, place: int) -> str:
        """A text of the row at `place`."""
        return self.value(column, place).decode(*UTF8)

    def id(self, place: int) -> str:
        """The unique id of the row at `place`."""
        suffix = int(self._suffixes[place])
        return self.text("name", place) + (f"-{suffix}" if suffix else "")


class Example:
    """A row ready for the model: its place among the examples, and in a table, from which all else is read anew."""

    __slots__ = ("_table", "index", "place")

    def __init__(self, table: Table, place: int, index: int) -> None:
        self._table, self.place, self.index = table, place, index

    @property
    def id(self) -> str:
        """Unique in the pool."""
        return self._table.id(self.place)

    @property
    def row(self) -> Row:
        """The row as it was read."""
        source, location = self._table.text("source", self.place), self._table.text("location", self.place)
        data = self._table.codec.decode(self._table.value("row", self.place))
        return Row(source, location, self._table.value("number", self.place), data)

    @property
    def conversation(self) -> Conversation:
        """The chat that was rendered."""
        return self._table.layouts[self._table.value("layout", self.place)].conversation(self.row.data)

    @property
    def input_ids(self) -> TokenIds:
        """[tokens] int32."""
        stored = self._stored_ids()
        return np.where(stored < 0, ~stored, stored)

    @property
    def trained(self) -> TokenMask:
        """[tokens] bool; True where the token is a target of the loss, i.e. predicted from those before it."""
        return self._stored_ids() < 0

    @property
    def trained_tokens(self) -> int:
        """How many tokens the loss is taken over."""
        return int(self._table.trained_tokens[self.place])

    @property
    def truncated(self) -> bool:
        """Whether `max_length` cut it."""
        return bool(self._table.truncated[self.place])

    @property
    def line(self) -> Line:
        """The row in a listing of the pool."""
        table, place = self._table, self.place
        texts = table.id(place), table.text("source", place), table.text("location", place)
        return Line(self.index, *texts, int(table.tokens[place]), self.trained_tokens)

    def _stored_ids(self) -> TokenIds:
        return np.frombuffer(self._table.value("ids", self.place), np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Pool(Listing):
    """A pool with its texts and tokens, which are in a table."""

    examples: Rows[Example]
    table: Table

    def listing(self) -> Listing:
        """The pool without its texts."""
        return Listing(self.lines, self.rejected, self.files, self.truncated)

    def only(self, places: Iterable[int]) -> "Pool":
        """The pool with the examples at `places` alone, numbered anew."""
        chosen = [self.examples[place].place for place in places]
        return make_pool(self.table, np.array(chosen, np.int64), self.rejected, self.files)


def make_pool(table: Table, places: NDArray[np.int64], rejected: list[Rejection], files: list[SourceFile]) -> Pool:
    """The pool of the rows of a table at `places`."""

    def examples(start: int, stop: int) -> list[Example]:
        return [Example(table, place, index) for index, place in enumerate(places[start:stop].tolist(), start)]

    def lines(start: int, stop: int) -> list[Line]:
        return [example.line for example in examples(start, stop)]

    tokens, trained = table.tokens[places], table.trained_tokens[places]
    truncated = int(table.truncated[places].sum())
    return Pool(Rows(tokens, trained, lines), rejected, files, truncated, Rows(tokens, trained, examples), table)


def unique_suffixes(names: pa.ChunkedArray) -> NDArray[np.int32]:
    """[n] numbers to append to the ids that rows ask for, `names` [n] binary, to make them unique; 0 where one stays.

    The second and later of the same get the first of `-2`, `-3`, ... with which no row asks for the id.
    """
    order = pc.sort_indices(names)  # pyright: ignore[reportAttributeAccessIssue] - stable: equal names stay in order
    ordered, places = names.take(order), order.to_numpy()
    suffixes = np.zeros(len(names), np.int32)
    previous, suffix = None, 1
    equal = pc.equal(ordered[1:], ordered[:-1])  # pyright: ignore[reportAttributeAccessIssue]
    for before in np.flatnonzero(equal).tolist():
        name = ordered[before].as_py()
        suffix = suffix + 1 if name == previous else 2
        while _holds(ordered, b"%s-%d" % (name, suffix)):
            suffix += 1
        suffixes[places[before + 1]], previous = suffix, name
    return suffixes


def _holds(ordered: pa.ChunkedArray, name: bytes) -> bool:
    place = bisect_left(ordered, name, key=lambda item: item.as_py())
    return place < len(ordered) and ordered[place].as_py() == name


@contextmanager
def _disk_errors() -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise PoolError(
            f"The pool's rows cannot be kept in a temporary file while they are used ({error.strerror}).\n"
            "Make room in the folder for temporary files, or name another one by TMPDIR."
        ) from error
