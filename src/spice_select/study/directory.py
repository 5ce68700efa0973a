"""What a study's directory holds, and which studies may go on in it. `choices` and `tuning` say what their parts hold.

Format version 3. What is there is not computed again; several processes may work there at once.
    study.json                     the settings that must stay the same when the study is continued
    targets/<name>-<seed>-<rows>[@<part>].jsonl    the rows that a seed draws of a target, of each of its files
    gram-*.safetensors, stores/    features that cells share, see `gram` and `stores`
    cells/                         choices, see `choices`
    untrained.json, tuned/         losses, see `tuning`
    table.md, lines.json, *.svg    the outcome, written anew after each cell
    .claims/                       locks by which processes share the work
"""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spice_select.errors import OutputError
from spice_select.files.atomic import TEMPORARY_PATTERN
from spice_select.files.directory import refuse_links, sweep_folders
from spice_select.files.locks import CLAIMS, at_work, claimed
from spice_select.files.records import differences, write_json
from spice_select.pool.examples import Pool
from spice_select.prepared import Prepared
from spice_select.study.config import StudyConfig
from spice_select.study.records import digest, read_json
from spice_select.study.targets import TargetRows

FORMAT_VERSION = 3
DECISIVE = {
    "model", "budget", "gradient_seeds", "format", "columns", "max_length", "rows_per_source", "recipe", "dtype",
    "target_rows",
}  # fmt: skip
"""Keys that must stay the same when a study is continued; of the data, contents are compared instead of names."""

TUNED = "tuned"


def identity_of(
    config: StudyConfig, prepared: Prepared, heldout: Pool, targets: Mapping[str, TargetRows]
) -> dict[str, Any]:
    """The content of study.json, with what pins the model's weights and the data."""
    pool, held = (
        digest([[file.sha256 for file in rows.files], [[row.id, row.row.source] for row in rows.examples]])
        for rows in (prepared.pool, heldout)
    )
    own = {"weights": prepared.about["fingerprint"], "pool": pool, "heldout": held}
    named = {"targets": {name: target.identity for name, target in targets.items()}}
    return {"format_version": FORMAT_VERSION, **config.model_dump(include=DECISIVE), **own, **named}


@contextmanager
def opened_study(directory: Path, identity: dict[str, Any], note: Callable[[str], None]) -> Generator[None]:
    """Take part in the study of `identity` in `directory` during the block; begins it where there is none.

    `note` receives what was there before it began.
    Raises `OutputError` where the directory holds another study, something else, or links.
    """
    check_directory(directory, identity)  # before anything is written where it may not be
    there = ((folder, name) for folder, *both in os.walk(directory) for names in both for name in names)
    refuse_links(directory, *(os.path.relpath(Path(folder, name), directory) for folder, name in there))
    directory.mkdir(parents=True, exist_ok=True)
    with at_work(directory, lambda: sweep_folders(directory)):
        with claimed(directory, "study"):
            saved = check_directory(directory, identity)
            earlier = len(list(directory.glob(f"{TUNED}/*/heldout.json")))
            if saved is None and earlier:
                note(
                    f"{earlier:,} fine-tunings in {directory / TUNED} are taken over: of this model, recipe and dtype?"
                )
            targets = {**(saved or {}).get("targets", {}), **identity["targets"]}
            if saved is None or saved["targets"] != targets:
                write_json(directory / "study.json", {**identity, "targets": targets})
        yield


def check_directory(directory: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The settings of the study there, which is that of `identity`; None where there is none.

    Fine-tunings in `tuned` alone are no study, and are taken over. Raises `OutputError` where the directory holds
    anything else.
    """
    path = directory / "study.json"
    if not path.exists():
        present = directory.iterdir() if directory.exists() else ()
        if not all(other.match(TEMPORARY_PATTERN) or other.name in (CLAIMS, TUNED) for other in present):
            raise OutputError(f"{directory}: is not empty and holds no study; choose a new --output.")
        return None
    saved: dict[str, Any] = read_json(path, dict[str, Any])
    theirs, ours = saved.get("targets", {}), identity["targets"]
    if found := differences({**saved, "targets": {}}, {**identity, "targets": {}}):
        raise OutputError(
            f"{directory}: holds a study with other settings: {found}.\n"
            "Cells, targets and seeds may be added; else choose a new --output. Rows without an id or a source\n"
            "are named after their file: give a renamed file its old name back."
        )
    if other := [name for name, rows in ours.items() if theirs.get(name, rows) != rows]:
        raise OutputError(
            f"{directory}: target '{other[0]}' was made of other rows there.\n"
            "Give the new rows another name, or choose a new --output; give a renamed file its old name back."
        )
    return saved
