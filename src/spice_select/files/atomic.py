"""Files written whole or not at all.

Contract: a reader of the target path sees either the earlier content or the complete new content, also after a crash or
a power cut. Bytes go to a temporary file in the same directory, are flushed to the disk, and take the target's name by
one rename; the directory is flushed last. On any failure the temporary file is removed and the target is unchanged. A
target that exists keeps its permission bits; a new one gets those of an ordinary new file.
"""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from spice_select.errors import REPEAT, NoRoomError, OutputError

TEMPORARY_PATTERN = ".spice-*.tmp"
"""Names of temporary files; a killed process can leave one behind."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)
_BROKEN = (errno.EIO, errno.ESTALE)
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP)
"""Errors of file systems that cannot flush a directory, such as some shared folders."""


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield the path of an empty temporary file that takes `path`'s place if the block ends without an error.

    For writers that need a file name (Parquet, safetensors); the block must close the file. Raises `OutputError` where
    `path`'s directory is missing or cannot be written to, its disk is full, or `path` is a directory.
    """
    temporary = _new_file_beside(path)
    with _renamed(temporary, path):
        yield temporary
        _flush(temporary)
        if path.exists():
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """Yield an empty folder that takes the name `path`, which must be free, if the block ends without an error.

    For writers of several files (save_pretrained). Raises `OutputError` where the directory cannot be written to or its
    disk is full.
    """
    temporary = _temporary_name(path)
    with _renamed(temporary, path):
        temporary.mkdir()
        yield temporary
        _flush_folder(temporary)


@contextmanager
def _renamed(temporary: Path, path: Path) -> Generator[None]:
    try:
        yield
        temporary.rename(path)
    except BaseException as error:
        with suppress(OSError):  # the first error is the one to report
            if temporary.is_dir():
                shutil.rmtree(temporary)
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM + _NO_RIGHT + _BROKEN:
            raise _not_written(path, error) from error
        raise
    flush_directory(path.parent)


def _flush_folder(folder: Path) -> None:
    """Flush all files of `folder`, and give them the permissions of ordinary new files, which safetensors does not."""
    new = _new_file_beside(folder / "new")
    mode = stat.S_IMODE(new.stat().st_mode)
    new.unlink()
    for path in folder.rglob("*"):
        if path.is_dir():
            flush_directory(path)
        else:
            path.chmod(mode)
            _flush(path)
    flush_directory(folder)


def write_bytes(path: Path, content: bytes) -> None:
    """Make `content` the whole content of `path`, or leave `path` as it was. Raises as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, with `text` in UTF-8 and its line ends unchanged."""
    write_bytes(path, text.encode("utf-8"))


def flush_directory(directory: Path) -> None:
    """Wait until `directory`'s list of names is on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def _flush(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _temporary_name(path: Path) -> Path:
    return path.parent / f".spice-{secrets.token_hex(8)}.tmp"


def _new_file_beside(path: Path) -> Path:
    """Create an empty file beside `path` with the permissions that open() gives any new file."""
    if path.is_dir():
        raise OutputError(f"{path}: is a directory, so no file can be written there. Choose another path.")
    temporary = _temporary_name(path)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _not_written(path, error) from error
        raise OutputError(
            f"{path.parent}: cannot be written to ({error.strerror}).\n"
            "Make the directory, or choose an output path that you may write to."
        ) from error
    return temporary


def _not_written(path: Path, error: OSError) -> OutputError:
    kind, remedy = OutputError, "Repair the disk or the connection to it"
    if error.errno in _NO_ROOM:
        kind, remedy = NoRoomError, "Make room"
    elif error.errno in _NO_RIGHT:
        remedy = "Obtain write permission there"
    return kind(f"{path}: cannot be written ({os.strerror(error.errno or 0)}).\n{remedy}, then {REPEAT}.")
