"""The output directory: when it may be written to, and what of it is this project's to replace.

Files of a finished run, format version 1:
    selected.jsonl      the chosen rows as they were, in the pool's order      (selected.parquet if asked for)
    train.parquet       the same rows as chats of one schema, for trainers     (see `output/trainers.py`)
    scores.parquet      one line per row of the pool                           (see `output/scores.py`)
    rejected.jsonl      rows that could not be used, if any
    manifest.json       what was run on what; written last, so it marks a complete run
    README.md, train_trl.py, axolotl.yaml, dataset_info.json, llamafactory.yaml: how to train on it
    report.html         what was chosen, why, and how good it is          (see `report/`); figures/ its figures
    run.yaml            the run's resolved options; --config replays it
    .spice-lock         while a command writes there, who it is            (see `locks`)
    checkpoint/         progress, and after the end the record of each pool    (see `schedule/checkpoint.py`)
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, cast

from spice_select.errors import OutputError
from spice_select.files.atomic import TEMPORARY_PATTERN, flush_directory
from spice_select.files.locks import LOCK

MANIFEST = "manifest.json"
SCORES = "scores.parquet"
REPORT = "report.html"
FIGURES = "figures"
PAGE_BYTES = 3_000_000
"""Most that the page of a report takes."""

CHECKPOINT = "checkpoint"
IDENTITY = "identity.json"
"""In the checkpoint; marks a begun run."""

FORMAT = "spice-select run"
"""What a manifest's field `format` says."""

FILES = (
    "selected.jsonl",
    "selected.parquet",
    "train.parquet",
    SCORES,
    "rejected.jsonl",
    MANIFEST,
    "README.md",
    "train_trl.py",
    "axolotl.yaml",
    "dataset_info.json",
    "llamafactory.yaml",
    "run.yaml",
    REPORT,
)

FIGURE_NAMES = ("gain", "conflict", "information", "lengths", "sources")
"""Figures of a report, each an SVG and a PNG in `FIGURES`."""

Existing = Literal["refuse", "resume", "overwrite"]
State = Literal["new", "begun", "complete"]


def inspect_output(directory: Path, existing: Existing) -> State:
    """Decide, without touching anything, whether a run may write to `directory`.

    Returns:
        "new" (to start), "begun" (to resume) or "complete" (a resumed run that has nothing left to do).

    Raises:
        OutputError: it exists and that was not asked for, or it is not a run's directory; what would be replaced is
            behind a link.

    """
    if directory.exists() and not directory.is_dir():
        raise OutputError(f"{directory}: is a file; choose another --output.")
    if not directory.exists() or not any(directory.iterdir()):
        return "new"
    complete, begun = _is_manifest(directory / MANIFEST), (directory / CHECKPOINT / IDENTITY).is_file()
    if not complete and not begun and _only_remains(directory):
        return "new"
    if not complete and not begun:
        raise OutputError(f"{directory}: exists and was not written by a run; choose another --output.")
    if existing == "refuse":
        what = "a finished run" if complete else "an unfinished run"
        remedy = "--overwrite replaces it" if complete else "--resume continues it (run), --overwrite replaces it"
        raise OutputError(f"{directory}: holds {what}; {remedy}, or choose another --output.")
    refuse_links(directory, CHECKPOINT, FIGURES)
    if existing == "overwrite":
        return "new"
    return "complete" if complete else "begun"


def refuse_links(directory: Path, *folders: str) -> None:
    """Keep from writing through links in a directory that somebody else may have made.

    Raises:
        OutputError: one of `folders`, relative to `directory`, is a link, behind which other files may lie.

    """
    for folder in folders:
        path = directory / folder
        if path.is_symlink():
            raise OutputError(f"{path}: is a link, not a folder of its own; remove it, or choose another directory.")


def refuse_own_inputs(directory: Path, inputs: Iterable[str]) -> None:
    """Keep a run from replacing the files it reads.

    Raises:
        OutputError: an input lies where the run would write.

    """
    own = {os.path.realpath(directory / name) for name in FILES}
    for path in inputs:
        if os.path.realpath(path) in own:
            raise OutputError(f"{path}: is an input and would be replaced by this run; choose another --output.")


def refuse_own_stores(directory: Path, stores: Iterable[Path]) -> None:
    """Keep a run or a pick from removing the gradient stores it reads.

    Raises:
        OutputError: a store lies where it would write.

    """
    for store in stores:
        if store.resolve().is_relative_to(directory.resolve()):
            raise OutputError(f"{directory}: holds the store {store}, which would be removed; choose another --output.")


def _is_manifest(path: Path) -> bool:
    """Tell a run's manifest from any other file of that name."""
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and cast(dict[str, object], content).get("format") == FORMAT


def _only_remains(directory: Path) -> bool:
    """Whether nothing but leavings of a run killed at its very start or in its removal is here."""
    numbered = r"pool-\d+\.json|(gram|proxy)-\d+\.safetensors"
    own = re.compile(rf"{numbered}|texts\.parquet|(token_budget|answers)\.json|gradients")
    inside = (directory / CHECKPOINT).glob("*")
    own_names = (CHECKPOINT, LOCK)
    return all(path.name in own_names or path.match(TEMPORARY_PATTERN) for path in directory.iterdir()) and all(
        own.fullmatch(path.name) or path.match(TEMPORARY_PATTERN) for path in inside
    )


def clear(directory: Path) -> None:
    """Remove an earlier run's files, and nothing else that may lie beside them.

    Raises:
        OutputError: a folder of the run is a link, behind which other files may lie; nothing is removed.

    """
    refuse_links(directory, CHECKPOINT, FIGURES)
    # The mark of completeness goes first: a kill in between leaves a run that is seen to be unfinished.
    (directory / MANIFEST).unlink(missing_ok=True)
    flush_directory(directory)  # nor may a power cut bring it back when the rest is gone
    for name in set(FILES) - {MANIFEST}:
        (directory / name).unlink(missing_ok=True)
    _clear_figures(directory / FIGURES)
    if (directory / CHECKPOINT).is_dir():
        for path in (directory / CHECKPOINT).glob("*.*"):
            if path.name != IDENTITY:
                path.unlink()
        shutil.rmtree(directory / CHECKPOINT)
    sweep(directory)


def _clear_figures(folder: Path) -> None:
    for name in FIGURE_NAMES:
        for ending in ("svg", "png"):
            (folder / f"{name}.{ending}").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def sweep(directory: Path) -> None:
    """Remove temporary files that a killed process left behind."""
    for folder in (directory, directory / CHECKPOINT):
        for path in folder.glob(TEMPORARY_PATTERN):
            if path.is_file():  # the directories are those of `finetune`, which may write into a run's
                path.unlink(missing_ok=True)


def sweep_folders(directory: Path) -> None:
    """Remove temporary files and folders at any depth; for directories where no other command writes."""
    for path in list(directory.rglob(TEMPORARY_PATTERN)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def ensure_writable(directory: Path) -> None:
    """Create the directory and try to write there, before anything is spent on the run.

    Raises:
        OutputError: it cannot be created or written to.

    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # a name of its own: other processes may try the same directory now, or sweep it
        descriptor, name = tempfile.mkstemp(prefix=".spice-", suffix=".tmp", dir=directory)
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be written to ({error.strerror}); choose another --output.") from None
