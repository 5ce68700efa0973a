"""The directory of a run: what its files are called, when a run may write there, and what it may replace.

Files of a finished run, format version 1 (docs/output.md):
    selected.jsonl      the chosen rows unchanged, in the pool's order     (selected.parquet on request)
    train.parquet       the same rows as chats in one schema               (see `output/trainers.py`)
    eval.parquet        those of them that are held out, with --eval-share
    scores.parquet      one line per row of the pool                       (see `output/scores.py`)
    rejected.jsonl      rows that could not be used, if any
    manifest.json       what was run on what; written last, so it marks a complete run
    README.md, train_trl.py, make_tokens.py, axolotl.yaml, llamafactory.yaml: how to train on the rows
    chat_template.jinja the template in place of the tokenizer's, if one was given
    tokens/             the rows as tokens, where make_tokens.py was run
    report.html         what was chosen, why, and how good it is; figures/ holds its figures   (see `report/`)
    run.yaml            the run's resolved options; --config replays it
    .spice-lock         names the command that is writing there                (see `locks`)
    checkpoint/         progress, and afterwards the record of each pool       (see `schedule/checkpoint.py`)
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from spice_select.errors import OutputError
from spice_select.files.atomic import TEMPORARY_PATTERN, flush_directory
from spice_select.files.locks import LOCK, sole_writer
from spice_select.files.records import read_json

MANIFEST = "manifest.json"
SCORES = "scores.parquet"
REPORT = "report.html"
FIGURES = "figures"
CHAT_TEMPLATE = "chat_template.jinja"
PAGE_BYTES = 3_000_000
"""Largest size of a report's page."""

TOKENS = "tokens"
CHECKPOINT = "checkpoint"
IDENTITY = "identity.json"
"""In the checkpoint; marks a run that has begun."""

FORMAT = "spice-select run"
"""Value of the field `format` in a manifest."""

FILES = (
    MANIFEST, SCORES, REPORT, "selected.jsonl", "selected.parquet", "train.parquet", "eval.parquet",
    "rejected.jsonl", "README.md", "train_trl.py", "make_tokens.py", "axolotl.yaml", "llamafactory.yaml", "run.yaml",
    CHAT_TEMPLATE,
)  # fmt: skip

FIGURE_NAMES = ("gain", "conflict", "information", "lengths", "sources")
"""Figures of a report, each an SVG and a PNG in `FIGURES`."""

Existing = Literal["refuse", "resume", "overwrite"]
State = Literal["new", "begun", "complete"]


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A directory that `opened_run` holds for one run.

    `state` is "new" (empty, or its content will be replaced), "begun" (resumed) or "complete" (nothing left to do).
    """

    path: Path
    state: State
    _main: bool
    _wait: Callable[[], None]

    def begin(self, start: Callable[[], None], verify: Callable[[], None]) -> None:
        """Make the directory ready for this run's files; nothing of an earlier run is changed before this call.

        The main process calls `start`, which marks a new run as begun, after it has removed an earlier run. Every
        process calls `verify`, which raises `OutputError` unless the run on disk is this one.
        """
        if self.state != "new":
            verify()
        if self.state == "complete":
            return
        self._wait()  # the main process changes the directory when all have verified it
        if self._main:
            for path in [*self.path.glob(TEMPORARY_PATTERN), *(self.path / CHECKPOINT).glob(TEMPORARY_PATTERN)]:
                if path.is_file():  # folders are those of `finetune`, which may write into a run's directory
                    path.unlink(missing_ok=True)
            if self.state == "new":
                clear(self.path)
                start()
        self._wait()
        if self.state == "new":
            verify()  # fails on a host that does not share the directory


@contextmanager
def opened_run(
    directory: Path, existing: Existing, *, main: bool = True, wait: Callable[[], None] = lambda: None
) -> Generator[RunDirectory]:
    """Decide what `directory` holds and keep other commands from writing there until the block ends.

    All that is created is the directory and its lock. Both are gone after the block if nothing else was written.

    `main` is whether this process is the one that writes; `wait` returns when every process of the run has called it.
    Raises as `inspect_output`, or `OutputError` where another process is writing or the directory cannot be written to.
    """
    with ExitStack() as stack:
        state = inspect_output(directory, existing)
        if main and state != "complete":
            stack.enter_context(created(directory))
            ensure_writable(directory)
            stack.enter_context(sole_writer(directory))
        wait()
        if state != "complete":
            state = inspect_output(directory, existing)  # another command may have written until the lock was taken
        yield RunDirectory(directory, state, main, wait)


@contextmanager
def created(directory: Path) -> Generator[None]:
    """After the block, remove `directory` and those of its parents that did not exist before, as far as empty."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            for path in missing:
                path.rmdir()


def inspect_output(directory: Path, existing: Existing) -> State:
    """Decide, without changing anything, whether a run may write to `directory`; returns its `RunDirectory.state`.

    Raises `OutputError` if the directory holds a run and `existing` is "refuse", or it holds something else; or a
    folder that would be replaced is a link.
    """
    if directory.exists() and not directory.is_dir():
        raise OutputError(f"{directory}: is a file; choose another --output.")
    complete, begun = _is_manifest(directory / MANIFEST), (directory / CHECKPOINT / IDENTITY).is_file()
    if not complete and not begun:
        if directory.exists() and not _only_remains(directory):
            raise OutputError(f"{directory}: exists and was not written by a run; choose another --output.")
        return "new"
    if existing == "refuse":
        what = "a finished run" if complete else "an unfinished run"
        remedy = "--overwrite replaces it" if complete else "--resume continues it (run), --overwrite replaces it"
        raise OutputError(f"{directory}: holds {what}; {remedy}, or choose another --output.")
    refuse_links(directory, CHECKPOINT, FIGURES, TOKENS)
    if existing == "overwrite":
        return "new"
    return "complete" if complete else "begun"


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of the finished run in `directory`; raises `OutputError` if there is none or it is damaged."""
    path = directory / MANIFEST
    remedy = "Name a directory that run or pick wrote."
    if not path.exists():
        raise OutputError(f"{directory}: holds no finished run.\n{remedy}")
    content = read_json(path, remedy)
    if content.get("format") != FORMAT:
        raise OutputError(f"{path}: is not the manifest of a selection run.\n{remedy}")
    return content


def _is_manifest(path: Path) -> bool:
    """Whether `path` is a run's manifest and not another file of that name."""
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and cast(dict[str, object], content).get("format") == FORMAT


def _only_remains(directory: Path) -> bool:
    """Whether the directory holds at most what a kill leaves before a run begins or after `clear` removed one."""
    found = [*directory.iterdir(), *(directory / CHECKPOINT).glob("*")]
    return all(path.name in (CHECKPOINT, LOCK) or path.match(TEMPORARY_PATTERN) for path in found)


def refuse_links(directory: Path, *folders: str) -> None:
    """Raise `OutputError` if one of `folders`, relative to `directory`, is a link: other files may lie behind it."""
    for folder in folders:
        path = directory / folder
        if path.is_symlink():
            raise OutputError(f"{path}: is a link, not a folder of its own; remove it, or choose another directory.")


def refuse_own_inputs(directory: Path, inputs: Iterable[str], stores: Iterable[Path]) -> None:
    """Raise `OutputError` if the run would replace a file, or remove a gradient store, that it reads."""
    own = {os.path.realpath(directory / name) for name in FILES}
    for path in inputs:
        if os.path.realpath(path) in own:
            raise OutputError(f"{path}: is an input and would be replaced by this run; choose another --output.")
    for store in stores:
        if store.resolve().is_relative_to(directory.resolve()):
            raise OutputError(f"{directory}: holds the store {store}, which would be removed; choose another --output.")


def clear(directory: Path) -> None:
    """Remove an earlier run's files, and nothing else in the directory. Raises as `refuse_links`, before any change."""
    refuse_links(directory, CHECKPOINT, FIGURES, TOKENS)
    # The mark of completeness goes first, that of a begun run last: a kill or a power cut in between leaves a directory
    # that is recognised as an unfinished run.
    (directory / MANIFEST).unlink(missing_ok=True)
    flush_directory(directory)
    for name in set(FILES) - {MANIFEST}:
        (directory / name).unlink(missing_ok=True)
    figures, checkpoint = directory / FIGURES, directory / CHECKPOINT
    for name in FIGURE_NAMES:
        for ending in ("svg", "png"):
            (figures / f"{name}.{ending}").unlink(missing_ok=True)
    with suppress(OSError):
        figures.rmdir()  # unless other files are in it
    if (directory / TOKENS).is_dir():
        shutil.rmtree(directory / TOKENS)  # a trainer would take the earlier run's rows for this one's
    if checkpoint.is_dir():
        for path in checkpoint.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != IDENTITY:
                path.unlink()
        flush_directory(checkpoint)
        (checkpoint / IDENTITY).unlink(missing_ok=True)
        checkpoint.rmdir()


def sweep_folders(directory: Path) -> None:
    """Remove temporary files and folders at any depth; for directories where no other command writes."""
    for path in list(directory.rglob(TEMPORARY_PATTERN)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def ensure_writable(directory: Path) -> None:
    """Create the directory and write a file there as a test; raises `OutputError` where that fails."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # A unique name, because other processes may test or sweep the same directory at this moment.
        descriptor, name = tempfile.mkstemp(prefix=".spice-", suffix=".tmp", dir=directory)
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be written to ({error.strerror}); choose another --output.") from None
