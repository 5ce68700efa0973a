"""Locks on files, by which processes keep out of each other's way. Each lock names its holder.

The kernel holds a lock and lets go of it when its process ends, however that ends: a crash leaves nothing to clean up.
Works between processes of one host, and of several on a file system that passes flock on (local disks, NFS since
version 3 with its lock daemon, Lustre with -o flock).
"""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from spice_select.errors import OutputError

LOCK = ".spice-lock"
"""Name of the lock of an output directory, which is there while a command writes in it, and after a kill."""

LOOKING = 1.0
"""Seconds in which those who only look at a lock are sure to be done."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system without locks answers."""


@contextmanager
def sole_writer(directory: Path, lock: Path | None = None) -> Generator[None]:
    """Keep other commands from writing in `directory` for the block; the lock lies in it, or at `lock`.

    On a file system without locks there is no such protection, and the block runs all the same.

    Raises:
        OutputError: another process writes there; the message names it. Or the directory cannot be written to.

    """
    path = lock or directory / LOCK
    descriptor = _taken(path, directory)
    try:
        _sign(descriptor)
        yield
    finally:
        with suppress(OSError):  # what went wrong first is what must be told
            if _is(path, descriptor):
                path.unlink()
        os.close(descriptor)


def refuse_busy(directory: Path) -> None:
    """Raise `OutputError` where another process writes in `directory` at this moment; nothing is changed."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDONLY)
    except OSError:
        return  # no lock, or no right to look at it: the attempt to write will tell
    try:
        # Shared, so that several who only look do not take each other for writers.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _busy(directory, descriptor) from None
    except OSError:
        return  # no locks here
    finally:
        os.close(descriptor)


@contextmanager
def claimed(path: Path, *, wait: Callable[[str], None] | None) -> Generator[bool]:
    """Hold the lock `path`, a file that stays, for the block.

    Args:
        path: made if it is not there; its directory exists.
        wait: how to go on where another process holds it: None yields False at once; otherwise it is told who that
            is, and the block begins when the lock is free.

    Raises:
        OutputError: the file cannot be made, or its file system has no locks.

    """
    descriptor = _opened(path)
    try:
        held = _lock(descriptor, path.parent, wait=False, needed=True)
        if not held and wait is not None:
            wait(_signature(descriptor))
            held = _lock(descriptor, path.parent, wait=True, needed=True)
        if held:
            _sign(descriptor)
        yield held
    finally:
        os.close(descriptor)  # lets go of the lock


def _busy(directory: Path, descriptor: int) -> OutputError:
    who = _signature(descriptor)
    return OutputError(f"{directory}: {who} is writing there.\nWait until it ends, or choose another --output.")


def holder(path: Path) -> str:
    """Who holds the lock `path`, or held it last."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:500] or "another process"
    except OSError:
        return "another process"


def _taken(path: Path, directory: Path) -> int:
    """An open descriptor of `path`, locked; those who only look are waited for."""
    patience = time.monotonic() + LOOKING
    while True:
        descriptor = _opened(path)
        if not _lock(descriptor, directory, wait=False, needed=False):
            busy = _busy(directory, descriptor)
            os.close(descriptor)
            if time.monotonic() > patience:
                raise busy
            time.sleep(0.05)
        elif _is(path, descriptor):  # else its holder ended and removed it between our open and our lock
            return descriptor
        else:
            os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise OutputError(
            f"{path.parent}: cannot be written to ({error.strerror}).\n"
            "Make room or get the right to write there, and give the same command again."
        ) from error


def _lock(descriptor: int, directory: Path, *, wait: bool, needed: bool) -> bool:
    """Whether the lock is ours now; True also where the file system has none and none is `needed`."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS and not needed:
            return True
        raise OutputError(
            f"{directory}: this file system has no locks ({error.strerror}); put the output on one that has."
        ) from error
    return True


def _sign(descriptor: int) -> None:
    """Write into the lock who holds it, for others to read; on a full disk it stays unsigned."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    text = f"process {os.getpid()} on {socket.gethostname()} (since {since})"
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def _signature(descriptor: int) -> str:
    """Who holds a lock, as it signed it."""
    return os.pread(descriptor, 500, 0).decode(errors="replace") or "another process"
