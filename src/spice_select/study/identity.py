"""`study.json`, format version 1: what makes a study the same one when it goes on.

Everything but its cells, its seeds and what only concerns the machine; sha256 of its data files and of their rows' ids
and sources; what pins the model's weights.
"""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from spice_select.errors import OutputError
from spice_select.files.atomic import TEMPORARY_PATTERN
from spice_select.files.locks import LOCK
from spice_select.pool.examples import Pool
from spice_select.study.config import StudyConfig
from spice_select.study.files import read_json, write_json

FORMAT_VERSION = 1
STUDY = "study.json"
MAY_CHANGE = {
    "cells", "seeds", "baseline", "pool", "heldout", "rows_at_once", "gradient_memory", "skip_invalid",
    "on_bad_gradient",
}  # fmt: skip
"""Keys that may differ when a study goes on; the data's contents are compared instead of their names."""

ROWS = ("pool_rows", "heldout_rows")
WORDS = {
    "weights": "the weights behind its model's name",
    "pool": "the contents of the pool's files",
    "heldout": "the contents of the held-out files",
    "pool_rows": "the ids or sources of the pool's rows",
    "heldout_rows": "the ids or sources of the held-out rows",
}


def identity_of(study: StudyConfig, pool: Pool, heldout: Pool, weights: str) -> dict[str, Any]:
    """The content of study.json; `weights` is the model's fingerprint."""
    return {
        "format_version": FORMAT_VERSION,
        **study.model_dump(exclude=MAY_CHANGE),
        "weights": weights,
        "pool": [file.sha256 for file in pool.files],
        "heldout": [file.sha256 for file in heldout.files],
        "pool_rows": _digest(pool),
        "heldout_rows": _digest(heldout),
    }


def begun(directory: Path, wanted: dict[str, Any]) -> bool:
    """Whether the directory holds the study that `wanted` identifies; False where it is empty or missing.

    Keys that the saved study lacks, having been begun by an earlier version, are not compared.

    Raises:
        OutputError: the directory holds another study, or none and other files; study.json is damaged.

    """
    path = directory / STUDY
    if path.exists():
        saved = read_json(path, "give a new --output")
        _refuse(directory, [key for key in wanted if key in saved and saved[key] != wanted[key]])
        return True
    there = directory.iterdir() if directory.exists() else ()
    if not all(path.match(TEMPORARY_PATTERN) or path.name == LOCK for path in there):
        raise OutputError(f"{directory}: is not empty and holds no study; give a new --output.")
    return False


def begin(directory: Path, wanted: dict[str, Any]) -> None:
    """Make the directory, unless it holds this study already. Raises as `begun` does."""
    if not begun(directory, wanted):
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / STUDY, wanted, indent=1)


def _digest(pool: Pool) -> str:
    rows = [[example.id, example.row.source] for example in pool.examples]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _refuse(directory: Path, differing: Collection[str]) -> None:
    if not differing:
        return
    if set(differing) <= set(ROWS):
        remedy = (
            "The files hold the same, but rows without an id or a source are named after their file:\n"
            "give the files their old names back, or a new --output."
        )
    else:
        remedy = "Cells and seeds may be added to a study; for anything else give a new --output."
    named = ", ".join(WORDS.get(key, key) for key in differing)
    raise OutputError(f"{directory}: holds a study that differs in {named}.\n{remedy}")
