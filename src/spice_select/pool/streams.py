"""The bytes of a pool's file, unpacked, and its lines: neither a long line nor a packed file may fill the memory.

A line is at most `ROW_BYTES` long; of a longer line only the beginning is ever held. A gzip file is refused once it has
unpacked to more than `UNPACKED_BYTES` and to more than `UNPACKED_TIMES` the packed bytes read: text packs to a tenth,
and what packs to a hundredth or less was made to fill a disk or a memory.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from spice_select.errors import PoolError
from spice_select.pool.problems import one_line

ROW_BYTES = 1 << 26
"""Most bytes of a row's line; characters of a CSV cell and of an element of a JSON array."""
UNPACKED_BYTES, UNPACKED_TIMES = 1 << 30, 100
"""A file that unpacks beyond both is refused."""

_BOM = b"\xef\xbb\xbf"
_PIECE = 1 << 16  # bytes of an overlong line that are passed over at once


class PoolFile:
    """The bytes of a file, unpacked if its name ends in .gz.

    Reading raises `PoolError` where the packed stream is damaged or unpacks beyond the limits.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._packed = path.open("rb")
        self._gzip = gzip.GzipFile(fileobj=self._packed) if path.suffix == ".gz" else None
        self._stream = cast(IO[bytes], self._gzip or self._packed)
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
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            place = f" after line {self._lines}" if self._lines else ""
            raise PoolError(
                f"{self.path.name}: broken gzip stream{place}: {one_line(str(error))}.\n"
                "The file is damaged, cut short, or not gzip; copy it again."
            ) from error
        if self._gzip is not None:
            remedy = "If that is intended, unpack it yourself (gunzip) and name the unpacked file."
            refuse_bomb(self.path, self._gzip.tell(), self._packed.tell(), remedy)
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
