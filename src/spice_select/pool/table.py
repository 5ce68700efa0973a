"""The usable rows of a pool: a table of numbers in memory, about 60 bytes a row, and all else in temporary files, from
which an `Example` reads what it is asked for.

Tokens are stored as int32, a trained one as its complement, which is negative.
"""

from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spice_select.pool.encoding import Encoded, TokenIds, TokenMask
from spice_select.pool.ids import unique_suffixes
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.messages import Conversation
from spice_select.pool.reading import ChatRow, Origin
from spice_select.pool.scratch import Pieces, Scratch
from spice_select.pool.types import Line, Listing, Rejection, Row, SourceFile
from spice_select.pool.values import Values


class Keeper:
    """Takes in rows, one after another; a context that closes the files it writes."""

    def __init__(self) -> None:
        """Begin with no row. Raises `PoolError` where no temporary file can be made."""
        self._files = ExitStack()
        self._rows, self._tokens, self._names = (self._files.enter_context(Scratch()) for _ in range(3))
        self._numbers, self._lines = array("q"), array("q")
        self._trained, self._truncated = array("i"), array("b")
        self._source_codes, self._origin_codes = array("i"), array("i")
        self._sources: dict[str, int] = {}
        self._origins: list[Origin] = []
        self._values = Values()

    def __enter__(self) -> "Keeper":
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files; what is kept can still be read."""
        self._files.__exit__(kind, error, trace)

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, chat: ChatRow, tokens: Encoded, max_length: int) -> None:
        """Keep a row with its first `max_length` tokens. Raises `PoolError` where the disk is full."""
        ids, trained = tokens.input_ids[:max_length], tokens.trained[:max_length]
        self._rows.append(self._values.encode(chat.data))
        self._tokens.append(np.where(trained, ~ids, ids).tobytes())
        self._names.append(chat.name.encode("utf-8", "surrogatepass"))
        self._numbers.append(chat.number)
        self._lines.append(chat.line)
        self._trained.append(int(trained.sum()))
        self._truncated.append(len(tokens.input_ids) > max_length)
        self._source_codes.append(self._sources.setdefault(chat.source, len(self._sources)))
        if not self._origins or self._origins[-1] is not chat.origin:  # inputs come one after another
            self._origins.append(chat.origin)
        self._origin_codes.append(len(self._origins) - 1)

    def kept(self) -> "Kept":
        """All rows, at least one; nothing can be added any more."""
        names, tokens = self._names.pieces(), self._tokens.pieces()
        return Kept(
            rows=self._rows.pieces(),
            tokens=tokens,
            names=names,
            suffixes=unique_suffixes(len(self), lambda place: names[place].decode("utf-8", "surrogatepass")),
            lengths=(tokens.sizes // np.dtype(np.int32).itemsize).astype(np.int32),
            trained_tokens=np.frombuffer(self._trained, np.int32),
            truncated=np.frombuffer(self._truncated, np.bool_),
            numbers=np.frombuffer(self._numbers, np.int64),
            lines=np.frombuffer(self._lines, np.int64),
            source_codes=np.frombuffer(self._source_codes, np.int32),
            origin_codes=np.frombuffer(self._origin_codes, np.int32),
            sources=list(self._sources),
            origins=self._origins,
            values=self._values,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """Rows by place.

    Attributes:
        rows: the fields of each, as `values` encodes them.
        tokens: of each.
        names: the id that each wants.
        suffixes: [n] what makes it unique, or 0.
        lengths: [n] tokens.
        trained_tokens: [n] how many of them are trained.
        truncated: [n] whether tokens were cut off.
        numbers: [n] 1-based place in its file.
        lines: [n] of a text file, or 0.
        source_codes: [n] place in `sources`.
        origin_codes: [n] place in `origins`.
        sources: names of data sets.
        origins: inputs.
        values: decodes `rows`.

    """

    rows: Pieces
    tokens: Pieces
    names: Pieces
    suffixes: NDArray[np.int32]
    lengths: NDArray[np.int32]
    trained_tokens: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    numbers: NDArray[np.int64]
    lines: NDArray[np.int64]
    source_codes: NDArray[np.int32]
    origin_codes: NDArray[np.int32]
    sources: Sequence[str]
    origins: Sequence[Origin]
    values: Values

    def examples(self) -> Rows["Example"]:
        """All rows."""
        return Rows(
            self.lengths,
            self.trained_tokens,
            lambda start, stop: [Example(self, place, place) for place in range(start, stop)],
        )

    def name(self, place: int) -> str:
        """The row's id."""
        wanted, suffix = self.names[place].decode("utf-8", "surrogatepass"), int(self.suffixes[place])
        return f"{wanted}-{suffix}" if suffix else wanted

    def source(self, place: int) -> str:
        """Name of the row's data set."""
        return self.sources[int(self.source_codes[place])]

    def origin(self, place: int) -> Origin:
        """The input that the row is of."""
        return self.origins[int(self.origin_codes[place])]

    def location(self, place: int) -> str:
        """Where the row is, for people."""
        return self.origin(place).location(int(self.numbers[place]), int(self.lines[place]))

    def data(self, place: int) -> dict[str, Any]:
        """The row's fields."""
        return self.values.decode(self.rows[place])

    def stored_tokens(self, place: int) -> TokenIds:
        """The row's tokens as they are stored."""
        return np.frombuffer(self.tokens[place], np.int32)


class Example:
    """A row ready for the model. What it is asked for is read from where the pool is kept, anew each time.

    Attributes:
        index: place among the examples.

    """

    __slots__ = ("_kept", "_place", "index")

    def __init__(self, kept: Kept, place: int, index: int) -> None:
        """`place` is the row's in `kept`."""
        self._kept, self._place, self.index = kept, place, index

    def numbered(self, index: int) -> "Example":
        """The same row at another place among examples."""
        return Example(self._kept, self._place, index)

    @property
    def id(self) -> str:
        """Unique in the pool."""
        return self._kept.name(self._place)

    @property
    def row(self) -> Row:
        """Where it comes from, with its fields."""
        kept, place = self._kept, self._place
        return Row(kept.source(place), kept.location(place), int(kept.numbers[place]), kept.data(place))

    @property
    def conversation(self) -> Conversation:
        """The chat that was rendered."""
        return self._kept.origin(self._place).conversation(self._kept.data(self._place))

    @property
    def input_ids(self) -> TokenIds:
        """[tokens] int32."""
        stored = self._kept.stored_tokens(self._place)
        return np.where(stored < 0, ~stored, stored)

    @property
    def trained(self) -> TokenMask:
        """[tokens] bool; True where the token is a target of the loss, i.e. predicted from those before it."""
        return self._kept.stored_tokens(self._place) < 0

    @property
    def trained_tokens(self) -> int:
        """How many tokens the loss is taken over."""
        return int(self._kept.trained_tokens[self._place])

    @property
    def truncated(self) -> bool:
        """Whether `max_length` cut it."""
        return bool(self._kept.truncated[self._place])

    @property
    def line(self) -> Line:
        """What a table of the pool says of it."""
        kept, place = self._kept, self._place
        tokens = int(kept.lengths[place])
        return Line(self.index, self.id, kept.source(place), kept.location(place), tokens, self.trained_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """All examples, what was left out, where it all came from, and how many `max_length` cut."""

    examples: Rows[Example]
    rejected: list[Rejection]
    files: list[SourceFile]
    truncated: int

    @property
    def total_tokens(self) -> int:
        """Tokens of all examples, trained or not."""
        return int(self.examples.tokens.sum(dtype=np.int64))

    @property
    def trained_tokens(self) -> int:
        """Tokens that the loss is taken over."""
        return int(self.examples.trained_tokens.sum(dtype=np.int64))

    def listing(self) -> Listing:
        """The pool without its texts."""
        examples = self.examples
        lines = Rows(
            examples.tokens,
            examples.trained_tokens,
            lambda start, stop: [example.line for example in examples[start:stop]],
        )
        return Listing(lines, self.rejected, self.files, self.truncated)

    def only(self, places: Sequence[int]) -> "Pool":
        """The pool with the examples at `places` alone, numbered anew."""
        chosen = [self.examples[place].numbered(index) for index, place in enumerate(places)]
        tokens, trained = (
            column[np.array(places, np.int64)] for column in (self.examples.tokens, self.examples.trained_tokens)
        )
        examples = Rows(tokens, trained, lambda start, stop: chosen[start:stop])
        return replace(self, examples=examples, truncated=sum(example.truncated for example in chosen))
