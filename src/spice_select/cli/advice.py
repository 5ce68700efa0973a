"""What a stopped command leaves, and how to go on: one function for each command that leaves something."""

from collections.abc import Callable
from pathlib import Path

from spice_select.files.directory import CHECKPOINT, IDENTITY, MANIFEST
from spice_select.schedule.checkpoint import STORE
from spice_select.store.layout import SHARDS
from spice_select.training.checkpoint import RECORD

AGAIN = "Nothing was begun: give the same command again."


def of_run(directory: str, *, overwrite: bool) -> Callable[[], str]:
    """Advice on a run into `directory`, made before it starts, when an earlier run may be there."""
    place = Path(directory)
    marks = (place / CHECKPOINT / IDENTITY, place / MANIFEST)
    earlier = [_version(mark) for mark in marks]

    def advice() -> str:
        """Say what is there at this moment."""
        now = [_version(mark) for mark in marks]
        if now[0] is None:
            return AGAIN
        if overwrite and now[0] == earlier[0]:
            left = "is as it was" if now == earlier else "held an earlier run, which was being removed"
            return f"{directory} {left}: give the same command again."
        if now[1] is not None:
            return f"The choice in {directory} is complete.\n`spice-select report {directory}` writes its report."
        how = "with --resume in place of --overwrite" if overwrite else "with --resume"
        return f"{_kept(place)} in {directory}.\nThe same command {how} goes on to the same subset."

    return advice


def of_store(store: str) -> Callable[[], str]:
    """Advice on gradients into `store`."""

    def advice() -> str:
        """Say what is there at this moment."""
        if not (Path(store) / SHARDS).is_dir():
            return AGAIN
        return f"{_shards(Path(store))} in {store}.\nThe same command computes what is missing."

    return advice


def of_pick(directory: str, *, overwrite: bool) -> Callable[[], str]:
    """Advice on a pick into `directory`."""
    run = of_run(directory, overwrite=overwrite)

    def advice() -> str:
        """Say what is there at this moment."""
        said = run()
        if "--resume" not in said:
            return said
        return (
            f"{directory} is not complete, and the store is as it was.\nThe same command with --overwrite starts anew."
        )

    return advice


def of_study(directory: str) -> Callable[[], str]:
    """Advice on a study into `directory`."""

    def advice() -> str:
        """Say what is there at this moment."""
        done = _files(Path(directory) / "tuned", "*/heldout.json", "result of a cell", "results of cells")
        return f"{done} kept in {directory}.\nThe same command goes on."

    return advice


def of_finetune(output: str) -> Callable[[], str]:
    """Advice on a fine-tuning into `output`, made before it starts, when an earlier checkpoint may be there."""
    earlier = _version(Path(output) / RECORD)

    def advice() -> str:
        """Say what is there at this moment."""
        now = _version(Path(output) / RECORD)
        if now == earlier:
            return f"{output} is as it was: a checkpoint appears when it is finished.\nThe same command starts anew."
        if now is not None:
            return f"The checkpoint in {output} is complete."
        return f"The checkpoint is finished, but not all of it in place.\nThe next command on {output} puts it there."

    return advice


def of_evaluation(output: Path | None) -> Callable[[], str]:
    """Advice on an evaluation whose finished parts go into `output`, made before it starts."""
    earlier = None if output is None else _version(output)

    def advice() -> str:
        """Say what is there at this moment."""
        if output is None or _version(output) == earlier:
            return "Nothing is kept: give the same command again."
        return f"{output} holds what was measured.\nThe same command with --overwrite measures all anew."

    return advice


def _version(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of the same name."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _kept(directory: Path) -> str:
    checkpoint = directory / CHECKPOINT
    if (checkpoint / STORE).is_dir():
        return _shards(checkpoint / STORE)
    return f"{_files(checkpoint, 'pool-*.json', 'candidate pool', 'candidate pools')} kept"


def _shards(store: Path) -> str:
    return f"{_files(store / SHARDS, '*.safetensors', 'shard', 'shards', ' of gradients')} kept"


def _files(folder: Path, pattern: str, one: str, several: str, of: str = "") -> str:
    count = len(list(folder.glob(pattern)))
    return f"1 {one}{of} is" if count == 1 else f"{count:,} {several}{of} are"
