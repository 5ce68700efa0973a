"""Pieces of bytes in a temporary file, written once, then read by place through a memory map.

The file has no name: it is gone from its folder before the first byte is written, so nothing is left behind however the
process ends, killed included. It lies in the folder for temporary files (`TMPDIR`); where that folder is in memory, so
are the pieces.
"""

import mmap
import tempfile
from array import array
from types import TracebackType
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from spice_select.errors import PoolError

_BUFFER = 1 << 20


class Pieces:
    """The n pieces of a `Scratch`; they outlive it."""

    def __init__(self, content: mmap.mmap, ends: NDArray[np.int64]) -> None:
        """`ends` are [n + 1] places in `content`, from 0."""
        self._content, self._ends = content, ends

    @property
    def sizes(self) -> NDArray[np.int64]:
        """[n] bytes of each."""
        return np.diff(self._ends)

    def __getitem__(self, place: int) -> bytes:
        start, stop = self._ends[place : place + 2].tolist()
        return self._content[start:stop]


class Scratch:
    """Pieces put one after another; a context that closes the file, which does not take away what was mapped."""

    def __init__(self) -> None:
        """Make the file. Raises `PoolError` where there is no folder to write to."""
        try:
            self._file = cast(IO[bytes], tempfile.TemporaryFile(buffering=_BUFFER))  # noqa: SIM115 - see __exit__
        except OSError as error:
            raise _no_room(error) from error
        self._ends = array("q", [0])

    def __enter__(self) -> "Scratch":
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; what is buffered after an error may not fit on the disk, and nobody wants it any more."""
        try:
            self._file.close()
        except OSError:
            if error is None:
                raise

    def append(self, piece: bytes) -> None:
        """Put it at the end. Raises `PoolError` where the disk is full."""
        try:
            self._file.write(piece)
        except OSError as error:
            raise _no_room(error) from error
        self._ends.append(self._ends[-1] + len(piece))

    def pieces(self) -> Pieces:
        """All that was put in, at least one byte; parts that nobody looks at need no memory. Raises as `append`."""
        try:
            self._file.flush()
            content = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise _no_room(error) from error
        return Pieces(content, np.frombuffer(self._ends, np.int64))


def _no_room(error: OSError) -> PoolError:
    return PoolError(
        f"The pool's rows cannot be kept in a temporary file while they are used ({error.strerror}).\n"
        "Make room in the folder for temporary files, or name another one by TMPDIR."
    )
