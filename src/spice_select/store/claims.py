"""Locks by which processes share a store's work: held by the kernel, so a process that dies lets go of them.

Contract: works between processes of one host, and of several on a file system that passes flock on (local disks, NFS
since version 3 with its lock daemon, Lustre with -o flock).
"""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from spice_select.errors import OutputError
from spice_select.store.layout import CLAIMS


@contextmanager
def claimed(store: Path, name: str, *, wait: bool) -> Generator[bool]:
    """Hold the claim `name` for the block; yields False, at once, where another process has it and `wait` is off."""
    directory = store / CLAIMS
    try:
        directory.mkdir(exist_ok=True)
        descriptor = os.open(directory / name, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise OutputError(
            f"{directory}: cannot be written to ({error.strerror}).\n"
            "Make room or get the right to write there, and give the same command again."
        ) from error
    try:
        yield _locked(descriptor, directory, wait)
    finally:
        os.close(descriptor)  # lets go of the lock


def _locked(descriptor: int, directory: Path, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        raise OutputError(
            f"{directory}: this file system has no locks ({error.strerror}); put the store on one that has."
        ) from error
