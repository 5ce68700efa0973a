"""One cell at one seed: fine-tune on its subset, measure the held-out loss, and keep the result as one file.

`cells/<cell>/<seed>.json`, format version 1: the cell's options, ids of its rows, trained tokens, the loss of each
optimizer step, the loss of each held-out row by id, and the trained tokens of the cell it follows, if any.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spice_select.errors import ConfigError, OutputError
from spice_select.evaluation.checkpoint import load_checkpoint
from spice_select.evaluation.heldout import heldout_loss
from spice_select.output.trainers import TRAIN_FILE
from spice_select.output.write_run import write_training_table  # pyright: ignore[reportUnknownVariableType]
from spice_select.pool.examples import Pool
from spice_select.progress import Progress
from spice_select.proxy.loading import pick_device
from spice_select.study.config import StudyConfig
from spice_select.study.files import read_json, write_json
from spice_select.training.finetune import finetune

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT_VERSION = 1
CELLS = "cells"
"""Folder of the results, with a folder for each cell."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """What came out of one cell at one seed; losses are mean NLL of each response, in nats a token.

    `target_tokens` are the trained tokens that the followed cell had; None for a cell that follows none, or unknown.
    """

    cell: str
    seed: int
    options: dict[str, Any]
    ids: list[str]
    trained_tokens: int
    steps: Sequence[float | None]
    losses: dict[str, float]
    target_tokens: int | None = None
    format_version: int = FORMAT_VERSION


def measure(
    study: StudyConfig, model: Path, pool: Pool, subset: Sequence[int], heldout: Pool, seed: int, progress: Progress
) -> tuple[list[float], dict[str, float]]:
    """Fine-tune `model` on the rows of `subset` and evaluate it: loss of each step, loss of each held-out row by id."""
    device = pick_device("auto")
    with tempfile.TemporaryDirectory(prefix="spice-study-") as scratch:
        run, checkpoint = Path(scratch) / "run", Path(scratch) / "checkpoint"
        run.mkdir()
        write_training_table(run / TRAIN_FILE, [pool.examples[row] for row in subset])
        recipe = study.recipe.model_copy(update={"seed": seed, "max_length": study.max_length})
        result = finetune(str(run), model=str(model), output=checkpoint, recipe=recipe, rows_at_once=study.rows_at_once)
        tuned = load_checkpoint(str(checkpoint), device, "float32")
        losses = heldout_losses(tuned.model, heldout, progress)
    return result.losses, losses


def heldout_losses(model: "PreTrainedModel", heldout: Pool, progress: Progress) -> dict[str, float]:
    """Loss of each held-out row by id."""
    return {row.id: row.loss for row in heldout_loss(model, heldout, progress=progress).rows}


def result_path(directory: Path, cell: str, seed: int) -> Path:
    """Where the result of a cell lies."""
    return directory / CELLS / cell / f"{seed}.json"


def write_result(directory: Path, result: CellResult) -> None:
    """Keep a result."""
    path = result_path(directory, result.cell, result.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(result))


def read_result(directory: Path, cell: str, seed: int, options: Mapping[str, Any]) -> CellResult | None:
    """A result kept earlier; None where there is none.

    Raises:
        OutputError: the file is damaged, or of another format version.
        ConfigError: it belongs to other options than the study now gives this cell.

    """
    path = result_path(directory, cell, seed)
    if not path.exists():
        return None
    content = read_json(path)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise OutputError(
            f"{path}: is of format version {version}, and this program reads {FORMAT_VERSION}; give a new --output."
        )
    try:
        result = CellResult(**content)
    except TypeError as error:
        raise OutputError(f"{path}: is damaged ({error}); delete it and run the study again.") from error
    if result.options != dict(options):
        raise ConfigError(
            f"{path}: was measured with other options ({result.options}) than the study gives '{cell}' now.\n"
            "Give the changed cell a new name, or delete its folder."
        )
    return result


def kept_result(study: StudyConfig, directory: Path, cell: str, seed: int) -> CellResult | None:
    """The result of an earlier run; None where there is none, or where the cell it follows has changed since.

    Raises as `read_result`.
    """
    result = read_result(directory, cell, seed, study.cells[cell])
    if result is None or result.target_tokens is None:
        return result
    return result if followed_tokens(study, directory, cell, seed) in (None, result.target_tokens) else None


def followed_tokens(study: StudyConfig, directory: Path, cell: str, seed: int) -> int | None:
    """Trained tokens of the cell that `cell` follows; None where it follows none, or that one is not done."""
    other = study.followed(cell)
    followed = None if other is None else kept_result(study, directory, other, seed)
    return None if followed is None else followed.trained_tokens
