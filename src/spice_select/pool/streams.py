"""The bytes of a pool's file, unpacked, and its lines: neither a long line nor a packed file may fill the memory.

A row is at most `ROW_BYTES` long; of a longer line only the beginning is ever held. A gzip file is refused once it has
unpacked to more than `UNPACKED_BYTES` and to more than `UNPACKED_TIMES` the packed bytes read: text packs to a tenth,
and what packs to a hundredth or less was made to fill a disk or a memory.
"""

import gzip
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from spice_select.errors import PoolError
from spice_select.pool.problems import one_line

ROW_BYTES = 1 << 26
"""Most bytes of a row: of its line, of its cells; characters of an element of a JSON array."""
UNPACKED_BYTES, UNPACKED_TIMES = 1 << 30, 100
"""A file that unpacks beyond both is refused."""

GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)

_BOM = b"\xef\xbb\xbf"
_PIECE = 1 << 16  # bytes unpacked at once


@contextmanager
def opened(path: Path) -> Generator[IO[bytes]]:
    """The file's bytes, unpacked if its name ends in .gz.

    Reading raises one of `GZIP_ERRORS` where the packed stream is damaged, and `PoolError` where it unpacks beyond
    the limits.
    """
    with path.open("rb") as packed:
        if path.suffix != ".gz":
            yield packed
        else:
            with io.BufferedReader(_Unpacked(path, packed), _PIECE) as stream:
                yield stream


def lines(path: Path, stream: IO[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    """Lines with their 1-based numbers, and whether each is whole: of one over `ROW_BYTES` only the beginning comes.

    The byte order mark is taken off. Raises `PoolError` if a gzip stream is damaged or unpacks beyond the limits.
    """
    number = 0
    try:
        while line := stream.readline(ROW_BYTES + 1):
            number += 1
            whole = len(line) <= ROW_BYTES or line.endswith(b"\n")
            if not whole:
                while (piece := stream.readline(_PIECE)) and not piece.endswith(b"\n"):
                    pass
            yield number, line.removeprefix(_BOM) if number == 1 else line, whole
    except GZIP_ERRORS as error:
        raise broken_gzip(path, number, error) from error


def too_long(what: str) -> str:
    """Why a row is not read; `what` is its line, cell or element."""
    return f"{what} is longer than {ROW_BYTES:,} bytes, the most a row may have"


def refuse_bomb(path: Path, unpacked: int, packed: int, remedy: str) -> None:
    """Raise `PoolError`, which ends with `remedy`, if so many packed bytes unpack beyond the limits."""
    if unpacked > UNPACKED_BYTES and unpacked > UNPACKED_TIMES * packed:
        raise PoolError(
            f"{path.name}: {packed:,} bytes of it unpack to more than {UNPACKED_BYTES:,}; reading stopped before that "
            f"fills the memory.\n{remedy}"
        )


def broken_gzip(path: Path, line: int, error: Exception) -> PoolError:
    """The error for a gzip stream that is damaged after line `line` (0: unknown)."""
    place = f" after line {line}" if line else ""
    return PoolError(
        f"{path.name}: broken gzip stream{place}: {one_line(str(error))}.\n"
        "The file is damaged, cut short, or not gzip; copy it again."
    )


class _Unpacked(io.RawIOBase):
    """The content of a gzip file, counted while it is read."""

    def __init__(self, path: Path, packed: BinaryIO) -> None:
        self._path, self._packed = path, packed
        self._stream = gzip.GzipFile(fileobj=packed, mode="rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview[int]") -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        count = cast(io.BufferedIOBase, self._stream).readinto1(buffer)
        remedy = "If that is intended, unpack it yourself (gunzip) and name the unpacked file."
        refuse_bomb(self._path, self._stream.tell(), self._packed.tell(), remedy)
        return count
