"""The directory that `finetune` leaves: when it may be written, and what marks it as whole.

    adapter_config.json, adapter_model.safetensors    the adapter, as PEFT reads it
    tokenizer.json and what else the tokenizer saves  so that the checkpoint is complete beside its base model
    finetune.json                                     what was trained on what, and every step's loss; written last

Everything is written into a hidden directory first. Where there is no output yet, that takes its name by one rename.
Where there is, its files move in and finetune.json last: a mount point or a shell's own folder cannot be swapped.
Hidden directories, which a kill leaves behind, are in nobody's way.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

from spice_select.errors import OutputError
from spice_select.files.atomic import TEMPORARY_PATTERN, flush_directory, flush_folder, write_text
from spice_select.files.locks import LOCK, sole_writer

RECORD = "finetune.json"
FORMAT = "spice-select-finetune"
FORMAT_VERSION = 1

Existing = Literal["refuse", "overwrite"]


def check_output(output: Path, existing: Existing) -> None:
    """Make sure that `output` may be written; nothing is touched.

    Raises:
        OutputError: it exists and that was not asked for, or holds what `finetune` did not write.

    """
    if os.path.lexists(output) and not output.is_dir():
        raise OutputError(f"{output}: is a file, or a link to no directory; choose another --output.")
    present = _present(output)
    if present:
        own = _recorded_files(output)
        if own is None:
            raise OutputError(f"{output}: exists and was not written by finetune; choose another --output.")
        if existing == "refuse":
            raise OutputError(f"{output}: holds a checkpoint; --overwrite replaces it, or choose another --output.")
        foreign = sorted(present - own)
        if foreign:
            raise OutputError(
                f"{output}: holds files that are not of its checkpoint ({', '.join(foreign[:3])}).\n"
                "They would be lost with it; move them away, or choose another --output."
            )


def finish_move(output: Path) -> None:
    """Complete the replacement of a checkpoint that a kill interrupted, when all was written and some not in place.

    Raises:
        OutputError: another process writes there.

    """
    if not output.is_dir() or (output / RECORD).exists():
        return
    for fresh in output.glob(TEMPORARY_PATTERN):
        names = None if fresh.is_symlink() else _recorded_files(fresh)
        if names is not None and all((fresh / name).exists() or (output / name).exists() for name in names):
            with sole_writer(output, lock_of(output)):
                _move_in(fresh, output)
            return


def where_to_stage(output: Path) -> Path:
    """The directory that must be writable for a checkpoint to be written to `output`."""
    return output if output.is_dir() else output.parent


def lock_of(output: Path) -> Path:
    """Where the lock on `output` lies: in it, or beside its place, under a name that fits any file system."""
    return where_to_stage(output) / f"{LOCK}-{hashlib.sha256(output.name.encode()).hexdigest()[:12]}"


def write_checkpoint(output: Path, record: dict[str, Any], save: Callable[[Path], None]) -> None:
    """Write what `save` puts into the directory it is given, and `record`, as the whole content of `output`.

    Call `check_output` first: an existing checkpoint is replaced.

    Raises:
        OutputError: it cannot be written; where everything was saved already, the message says where that lies.

    """
    fresh = where_to_stage(output) / f".spice-{secrets.token_hex(8)}.tmp"
    try:
        _fill(fresh, record, save)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if isinstance(error, OSError):
            raise OutputError(f"{output}: cannot be written ({error.strerror}); choose another --output.") from error
        raise
    try:
        _take_place(fresh, output)
    except OSError as error:
        raise OutputError(
            f"{output}: cannot be written ({error.strerror}).\n"
            f"The checkpoint is finished and kept: what of it is not there yet lies in {fresh}."
        ) from error


def _fill(fresh: Path, record: dict[str, Any], save: Callable[[Path], None]) -> None:
    fresh.mkdir()
    save(fresh)
    names = sorted(path.name for path in fresh.iterdir())
    about = {"format": FORMAT, "version": FORMAT_VERSION, **record, "files": [*names, RECORD]}
    write_text(fresh / RECORD, json.dumps(about, ensure_ascii=False, indent=1) + "\n")
    flush_folder(fresh)


def _recorded_files(output: Path) -> set[str] | None:
    """Names of the files of the checkpoint in `output`, from its record; None if there is none."""
    try:
        record: object = json.loads((output / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    about = cast("dict[str, Any]", record) if isinstance(record, dict) else {}
    names: object = about.get("files")
    if about.get("format") != FORMAT or not isinstance(names, list):
        return None
    return {str(name) for name in cast("list[object]", names)}


def _present(output: Path) -> set[str]:
    """Names of what lies in `output`, without locks and leavings of a killed process."""
    found = output.iterdir() if output.is_dir() else ()
    return {path.name for path in found if not (path.match(TEMPORARY_PATTERN) or path.name.startswith(LOCK))}


def _take_place(fresh: Path, output: Path) -> None:
    """Make the files of `fresh` those of `output`; those of a checkpoint that was there go."""
    if not output.exists():
        fresh.rename(output)
        flush_directory(output.parent)
        return
    old = _recorded_files(output) or set()
    (output / RECORD).unlink(missing_ok=True)  # first: a kill from here on leaves nothing that looks whole
    flush_directory(output)
    for name in _present(output) & old:
        _remove(output / name)
    _move_in(fresh, output)


def _move_in(fresh: Path, output: Path) -> None:
    for path in sorted(fresh.iterdir(), key=lambda path: path.name == RECORD):
        if path.name == RECORD:
            flush_directory(output)
        path.rename(output / path.name)
    flush_directory(output)
    fresh.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
