"""The directory that `finetune` writes.

    adapter_config.json, adapter_model.safetensors    the adapter, as PEFT reads it
    tokenizer.json and the tokenizer's other files    so that the checkpoint needs nothing but its base model
    finetune.json                                     the data, the recipe and every step's loss; written last

A new directory appears complete, by one rename. In a directory that exists (it may be a mount point, which cannot be
renamed) a hidden folder appears complete; then its files move into place, finetune.json last.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

from spice_select.errors import OutputError
from spice_select.files.atomic import TEMPORARY_PATTERN, flush_directory, new_folder, write_text
from spice_select.files.locks import LOCK, sole_writer

RECORD = "finetune.json"
FORMAT = "spice-select-finetune"
FORMAT_VERSION = 1

READY = ".spice-checkpoint.tmp"
"""A complete checkpoint inside the directory whose earlier one it replaces."""

ExistingCheckpoint = Literal["refuse", "overwrite"]


def check_output(output: Path, existing: ExistingCheckpoint) -> None:
    """Raise `OutputError` if `output` holds a checkpoint to keep, or files that `finetune` did not write."""
    if os.path.lexists(output) and not output.is_dir():
        raise OutputError(f"{output}: is a file, or a link to no directory; choose another --output.")
    if not (present := _present(output)):
        return
    own = _recorded_files(output)
    if own is None:
        raise OutputError(f"{output}: exists and was not written by finetune; choose another --output.")
    if existing == "refuse":
        raise OutputError(f"{output}: holds a checkpoint; --overwrite replaces it, or choose another --output.")
    if foreign := sorted(present - own):
        raise OutputError(
            f"{output}: holds files that do not belong to its checkpoint ({', '.join(foreign[:3])}).\n"
            "They would be lost with it; move them away, or choose another --output."
        )


def parent_of_writing(output: Path) -> Path:
    """The directory that must be writable for a checkpoint to be written to `output`."""
    return output if output.is_dir() else output.parent


def lock_of(output: Path) -> Path:
    """The lock file of `output`: in it, or beside it, under a name that fits any file system."""
    return parent_of_writing(output) / f"{LOCK}-{hashlib.sha256(output.name.encode()).hexdigest()[:12]}"


def write_checkpoint(output: Path, record: dict[str, Any], save: Callable[[Path], None]) -> None:
    """Replace the content of `output` by the files that `save` writes into a folder, and `record`.

    Call `check_output` first. Raises `OutputError` if `output` cannot be written.
    """
    ready = output / READY
    shutil.rmtree(ready, ignore_errors=True)  # an interrupted command may have left one, which is superseded
    with new_folder(ready if output.is_dir() else output) as folder:
        save(folder)
        names = sorted(path.name for path in folder.iterdir())
        about = {"format": FORMAT, "version": FORMAT_VERSION, **record, "files": [*names, RECORD]}
        write_text(folder / RECORD, json.dumps(about, ensure_ascii=False, indent=1) + "\n")
    if ready.exists():
        _move_in(output)


def finish_move(output: Path) -> None:
    """Complete the replacement of a checkpoint that a kill interrupted; `OutputError` if another process writes it."""
    ready = output / READY
    if ready.is_dir() and not ready.is_symlink() and not (output / RECORD).exists():
        with sole_writer(output, lock_of(output)):
            _move_in(output)


def _move_in(output: Path) -> None:
    ready = output / READY
    try:
        old = _recorded_files(output) or set()
        (output / RECORD).unlink(missing_ok=True)  # first: from here on nothing looks whole until all is in place
        flush_directory(output)
        for path in (output / name for name in _present(output) & old):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in sorted(ready.iterdir(), key=lambda path: path.name == RECORD):
            if path.name == RECORD:
                flush_directory(output)
            path.rename(output / path.name)
        flush_directory(output)
        ready.rmdir()
    except OSError as error:
        raise OutputError(
            f"{output}: cannot be written ({error.strerror}).\n"
            f"The checkpoint is complete: the files that are missing here are in {ready}."
        ) from error


def _recorded_files(output: Path) -> set[str] | None:
    """Names of the files of the checkpoint in `output`, from its record; None if there is none."""
    try:
        record: Any = json.loads((output / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    about = cast("dict[str, Any]", record) if isinstance(record, dict) else {}
    names = about.get("files")
    return (
        set(map(str, cast("list[Any]", names))) if about.get("format") == FORMAT and isinstance(names, list) else None
    )


def _present(output: Path) -> set[str]:
    """Names in `output`, apart from locks and what a killed process may leave."""
    found = output.iterdir() if output.is_dir() else ()
    return {path.name for path in found if not (path.match(TEMPORARY_PATTERN) or path.name.startswith(LOCK))}
