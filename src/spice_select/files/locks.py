"""Locks on files: one writer of a directory at a time, and work that processes share. A lock file names its holder.

The kernel releases a lock when its process ends, however it ends: a crash leaves nothing to clean up. Locks work
between processes of one host, and of several hosts where the file system supports flock across them (NFS from version 3
with its lock daemon, Lustre with -o flock).
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
from spice_select.files.atomic import write_bytes

LOCK = ".spice-lock"
"""Name of an output directory's lock file, which exists while a command writes there, and after a kill."""

CLAIMS = ".claims"
"""Folder of the lock files by which processes share the work on a directory; the files stay."""

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of a file system without locks."""


@contextmanager
def sole_writer(directory: Path, lock: Path | None = None) -> Generator[None]:
    """Keep other commands from writing in `directory` during the block; the lock file is in it unless given.

    A file system without locks gives no protection; the block still runs. Raises `OutputError` where another process is
    writing, which the message names, or where the directory cannot be written to.
    """
    path = lock or directory / LOCK
    with _opened(path) as descriptor:
        if not _acquire(descriptor, path, required=False):
            holder = _read_holder(descriptor)
            raise OutputError(
                f"{directory}: {holder} is writing there.\nWait until it ends, or choose another --output."
            )
        if _is_same_file(path, descriptor):
            _write_holder(descriptor)
            try:
                yield
            finally:
                with suppress(OSError):  # an error of the block must not be replaced by one from here
                    if _is_same_file(path, descriptor):
                        path.unlink()
            return
    with sole_writer(directory, lock):  # the holder ended, and removed its file, between our open and our lock
        yield


@contextmanager
def claimed(
    directory: Path, name: str, *, wait: bool = True, on_wait: Callable[[str], None] | None = None
) -> Generator[bool]:
    """Claim the work `name` in `directory`, which exists, for the block; yields whether it is held.

    While another process holds the claim this one waits, after `on_wait` received the holder's name, or without `wait`
    yields False at once. Raises `OutputError` where the lock file cannot be made or its file system has no locks.
    """
    path = directory / CLAIMS / name
    with _opened(path) as descriptor:
        held = _acquire(descriptor, path)
        if not held and wait:
            if on_wait is not None:
                on_wait(_read_holder(descriptor))
            held = _acquire(descriptor, path, flags=fcntl.LOCK_EX)
        if held:
            _write_holder(descriptor)
        yield held


@contextmanager
def at_work(directory: Path, when_alone: Callable[[], None]) -> Generator[None]:
    """Be one of the processes that work in `directory`, which exists, during the block.

    `when_alone` is called if no other is at work there; others that begin meanwhile wait for its end. Raises as
    `claimed`.
    """
    path = directory / CLAIMS / "at-work"
    with _opened(path) as descriptor:
        if _acquire(descriptor, path):
            when_alone()
        _acquire(descriptor, path, flags=fcntl.LOCK_SH)
        yield


def make_once(path: Path, make: Callable[[], bytes], on_wait: Callable[[str], None] | None = None) -> bytes:
    """Content of a file that one process makes and every process uses; `on_wait` as in `claimed`."""
    with claimed(path.parent, path.name, on_wait=on_wait):
        if not path.exists():
            write_bytes(path, make())
    return path.read_bytes()


@contextmanager
def _opened(path: Path) -> Generator[int]:
    """A descriptor of the lock file; closing it releases the lock."""
    try:
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise OutputError(
            f"{path.parent}: cannot be written to ({error.strerror}).\n"
            "Make room or obtain write permission there, then run the same command again."
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, *, flags: int = fcntl.LOCK_EX | fcntl.LOCK_NB, required: bool = True) -> bool:
    """Whether this process now holds the lock; also True where there are no locks and none is `required`."""
    try:
        fcntl.flock(descriptor, flags)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED and not required:
            return True
        raise OutputError(
            f"{path.parent}: this file system has no locks ({error.strerror}); put the output on one that has."
        ) from error
    return True


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    """Write into the lock file who holds it; on a full disk it stays empty."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    text = f"process {os.getpid()} on {socket.gethostname()} (since {since})"
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def _read_holder(descriptor: int) -> str:
    return os.pread(descriptor, 500, 0).decode(errors="replace") or "another process"
