"""The bytes of a pool's file, unpacked, and its lines: neither a long line nor a packed file may fill the memory.

A line is at most `ROW_BYTES` long; of a longer line only the beginning is ever held. A gzip file is refused once it has
unpacked to more than `UNPACKED_BYTES` and to more than `UNPACKED_TIMES` the packed bytes read: text packs to a tenth,
and what packs to a hundredth or less was made to fill a disk or a memory.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, cast

import pyarrow as pa

from spice_select.errors import PoolError
from spice_select.pool.problems import one_line

ROW_BYTES = 1 << 26
"""Most bytes of a row's line; characters of a CSV cell and of an element of a JSON array."""
UNPACKED_BYTES, UNPACKED_TIMES = 1 << 30, 100
"""A file that unpacks beyond both is refused."""

_BOM, _GZIP = b"\xef\xbb\xbf", b"\x1f\x8b"
_PIECE = 1 << 16  # bytes of an overlong line that are passed over at once


def _zstandard(packed: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(cast(io.RawIOBase, pa.CompressedInputStream(packed, "zstd"))))


UNPACKERS: Mapping[str, Callable[[IO[bytes]], IO[bytes]]] = {
    ".gz": lambda packed: cast(IO[bytes], gzip.GzipFile(fileobj=packed)),
    ".bz2": lambda packed: cast(IO[bytes], bz2.BZ2File(packed)),
    ".xz": lambda packed: cast(IO[bytes], lzma.LZMAFile(packed)),  # noqa: SIM115 - `PoolFile` closes it
    ".zst": _zstandard,
}
"""Endings of packed text files, and how they are unpacked."""


class PoolFile:
    """The bytes of a file, unpacked if its name ends as a packed file's.

    Reading raises `PoolError` where the packed stream is damaged or unpacks beyond the limits.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._packed = path.open("rb")
        if path.suffix.lower() not in UNPACKERS and self._packed.peek(2)[:2] == _GZIP:
            self.close()
            raise PoolError(f"{path.name}: is packed with gzip.\nAdd .gz to its name, or unpack it.")
        unpack = UNPACKERS.get(path.suffix.lower())
        self._unpacked = 0
        self._is_packed = unpack is not None
        self._stream = cast(IO[bytes], self._packed) if unpack is None else unpack(self._packed)
        self._lines = 0  # whole lines read so far

    def close(self) -> None:
        """Close the file."""
        self._packed.close()

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end of the file."""
        return self._checked(self._stream.read, size)

    def lines(self) -> Iterator[tuple[bytes, bool]]:
        """Each line, without a byte order mark, and whether it is whole: one over `ROW_BYTES` is cut off there."""
        while line := self._checked(self._stream.readline, ROW_BYTES + 1):
            whole = len(line) <= ROW_BYTES or line.endswith(b"\n")
            if not whole:
                while (piece := self._checked(self._stream.readline, _PIECE)) and not piece.endswith(b"\n"):
                    pass
            self._lines += 1
            yield line.removeprefix(_BOM) if self._lines == 1 else line, whole

    def _checked(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            data = read(size)
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if not self._is_packed:
                raise
            place = f" after line {self._lines}" if self._lines else ""
            kind = "gzip" if self.path.suffix == ".gz" else self.path.suffix[1:]
            raise PoolError(
                f"{self.path.name}: broken {kind} stream{place}: {one_line(str(error))}.\n"
                f"The file is damaged, cut short, or not {kind}; copy it again."
            ) from error
        if self._is_packed:
            self._unpacked += len(data)
            remedy = "If that is intended, unpack it yourself and name the unpacked file."
            refuse_bomb(self.path, self._unpacked, self._packed.tell(), remedy)
        return data


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
