"""The directory that `finetune` leaves: when it may be written, and that it appears whole or not at all.

    adapter_config.json, adapter_model.safetensors    the adapter, as PEFT reads it
    tokenizer.json and what else the tokenizer saves  so that the checkpoint is complete beside its base model
    finetune.json                                     what was trained on what, and every step's loss; written last

Everything is written into a hidden directory beside the output, which then takes the output's name by one rename.
"""

import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

from spice_select.errors import OutputError
from spice_select.output.atomic import write_text

RECORD = "finetune.json"
FORMAT = "spice-select-finetune"
FORMAT_VERSION = 1

Existing = Literal["refuse", "overwrite"]


def check_output(output: Path, existing: Existing) -> None:
    """Make sure that `output` may be written; nothing is touched.

    Raises:
        OutputError: it exists and that was not asked for, or holds what `finetune` did not write.

    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; choose another --output.")
    if output.exists() and any(output.iterdir()):
        own = _own_files(output)
        if existing == "refuse":
            raise OutputError(f"{output}: holds a checkpoint; --overwrite replaces it, or choose another --output.")
        foreign = sorted(path.name for path in output.iterdir() if path.name not in own)
        if foreign:
            raise OutputError(
                f"{output}: holds files that are not of its checkpoint ({', '.join(foreign[:3])}).\n"
                "They would be lost with it; move them away, or choose another --output."
            )


def write_checkpoint(output: Path, record: dict[str, Any], save: Callable[[Path], None]) -> None:
    """Write what `save` puts into the directory it is given, and `record`, as the whole content of `output`.

    Call `check_output` first: an existing checkpoint is replaced.

    Raises:
        OutputError: it cannot be written.

    """
    fresh = _beside(output)
    try:
        fresh.mkdir()
        save(fresh)
        files = sorted(path.name for path in fresh.iterdir())
        about = {"format": FORMAT, "version": FORMAT_VERSION, **record, "files": [*files, RECORD]}
        write_text(fresh / RECORD, json.dumps(about, ensure_ascii=False, indent=1) + "\n")
        for name in files:
            _settle(fresh / name, stat.S_IMODE((fresh / RECORD).stat().st_mode))
        _take_place(fresh, output)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror}); choose another --output.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _own_files(output: Path) -> set[str]:
    """Names of the files of the checkpoint in `output`, from its record."""
    try:
        record: object = json.loads((output / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    about = cast("dict[str, Any]", record) if isinstance(record, dict) else {}
    if about.get("format") != FORMAT:
        raise OutputError(f"{output}: exists and was not written by finetune; choose another --output.")
    return {str(name) for name in about.get("files", [])}


def _take_place(fresh: Path, output: Path) -> None:
    """Give `fresh` the name `output`; what had it, known to be a checkpoint or empty, goes."""
    if not output.exists():
        fresh.rename(output)
        return
    old = _beside(output)
    output.rename(old)
    fresh.rename(output)
    shutil.rmtree(old)


def _beside(output: Path) -> Path:
    return output.parent / f".spice-{secrets.token_hex(8)}.tmp"


def _settle(file: Path, mode: int) -> None:
    """Give `file` the permissions of an ordinary file, which safetensors does not, and wait until it is on the disk."""
    file.chmod(mode)
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
