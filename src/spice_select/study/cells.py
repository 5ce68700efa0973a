"""One cell at one seed: fine-tune on its subset, measure the held-out loss, and keep the result as one file.

`cells/<cell>/<seed>.json`, format version 1: the cell's options, ids of its rows, trained tokens, the loss of each
optimizer step, and the loss of each held-out row by id.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spice_select.errors import ConfigError, OutputError
from spice_select.evaluation.checkpoint import load_checkpoint
from spice_select.evaluation.heldout import heldout_loss
from spice_select.output.atomic import write_text
from spice_select.output.subset import write_training_table  # pyright: ignore[reportUnknownVariableType]
from spice_select.output.trainers import TRAIN_FILE
from spice_select.pool.examples import Pool
from spice_select.progress import Progress
from spice_select.proxy.loading import pick_device
from spice_select.study.config import StudyConfig
from spice_select.training.finetune import finetune

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class CellResult:
    """What came out of one cell at one seed; losses are mean NLL of each response, in nats a token."""

    cell: str
    seed: int
    options: dict[str, Any]
    ids: list[str]
    trained_tokens: int
    steps: list[float]
    losses: dict[str, float]
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
    return directory / "cells" / cell / f"{seed}.json"


def write_result(directory: Path, result: CellResult) -> None:
    """Keep a result."""
    path = result_path(directory, result.cell, result.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(result)) + "\n")


def read_result(directory: Path, cell: str, seed: int, options: Mapping[str, Any]) -> CellResult | None:
    """A result kept earlier; None where there is none.

    Raises:
        OutputError: the file is damaged.
        ConfigError: it belongs to other options than the study now gives this cell.

    """
    path = result_path(directory, cell, seed)
    if not path.exists():
        return None
    try:
        result = CellResult(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise OutputError(f"{path}: is damaged ({error}); delete it and run the study again.") from error
    if result.options != dict(options):
        raise ConfigError(
            f"{path}: was measured with other options ({result.options}) than the study gives '{cell}' now.\n"
            "Give the changed cell a new name, or delete its folder."
        )
    return result
