"""`finetune`: LoRA fine-tuning on chosen rows with the loss that they were chosen by.

    from spice_select.training.finetune import finetune
    result = finetune("chosen", model="Qwen/Qwen3-0.6B", output="tuned")      # "chosen" is a run's directory

The same function stands behind `spice-select finetune`. Needs the extra `train`.
"""

import importlib.metadata
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from accelerate import PartialState

from spice_select.config import EMBEDDED_MODEL
from spice_select.distributed.launch import is_main_process
from spice_select.files.directory import ensure_writable
from spice_select.files.locks import sole_writer
from spice_select.files.versions import versions
from spice_select.progress import Progress
from spice_select.recipe import Recipe
from spice_select.training.callback import Steps
from spice_select.training.checkpoint import (
    Existing,
    check_output,
    finish_move,
    lock_of,
    where_to_stage,
    write_checkpoint,
)
from spice_select.training.data import Data
from spice_select.training.plan import TrainingOptions, load_adapted, of_main_process, plan_training, read_rows
from spice_select.training.trainer import train

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What a fine-tuning did.

    Attributes:
        rows: trained on.
        trained_tokens: targets of the loss in one pass over the rows.
        steps: optimizer steps.
        losses: of each step, mean over its trained tokens (nats a token), before the step is taken.
        seconds: the training itself, without loading and saving.
        output: directory of the checkpoint.

    """

    rows: int
    trained_tokens: int
    steps: int
    losses: list[float]
    seconds: float
    output: Path


def finetune(
    data: Data,
    *,
    output: str | Path,
    existing: Existing = "refuse",
    progress: Progress | None = None,
    **options: Unpack[TrainingOptions],
) -> FinetuneResult:
    """Fine-tune a model on `data` and leave the adapter in `output`.

    Launched by torchrun or accelerate, the processes share each batch and the first one writes.

    Args:
        data: the directory of a run, or pools as `select` takes them.
        output: directory of the checkpoint; it appears whole, at the end, or not at all.
        existing: what to do when `output` holds a checkpoint: "refuse" or "overwrite".
        progress: told about stages and finished rows.
        **options: model, recipe, rows_at_once, device, ...: see `TrainingOptions`.

    Raises:
        SpiceSelectError: whatever the user can mend; the message says how. Nothing is written in that case.

    """
    place = Path(output).expanduser()
    plan = plan_training(data, **options)
    if is_main_process():
        finish_move(place)
    check_output(place, existing)
    tell, recipe = of_main_process(progress), plan.recipe
    tokenizer, rows = read_rows(plan, tell)
    ensure_writable(where_to_stage(place))
    with sole_writer(place, lock_of(place)) if is_main_process() else nullcontext():
        check_output(place, existing)  # again, now that nobody else can write it
        adapted = load_adapted(plan, tell)

        steps = Steps(tell, round(rows.rows * recipe.epochs), round(rows.tokens * recipe.epochs))
        started = time.perf_counter()
        train(adapted, tokenizer, rows.dataset, recipe, plan.share, plan.device, plan.config.dtype, steps)
        seconds = time.perf_counter() - started
        result = FinetuneResult(rows.rows, rows.trained_tokens, len(steps.losses), steps.losses, seconds, place)
        if is_main_process():
            trained = EMBEDDED_MODEL if plan.source.name == EMBEDDED_MODEL else plan.base
            about = {"model": trained, "revision": plan.base_revision, "dtype": plan.config.dtype}
            record = {**about, **_record(result, recipe)}
            write_checkpoint(place, record, lambda folder: _save(adapted, tokenizer, folder))
    PartialState().wait_for_everyone()  # on return the checkpoint is there for every process
    return result


def _record(result: FinetuneResult, recipe: Recipe) -> dict[str, object]:
    return {
        "recipe": recipe.model_dump(),
        "rows": result.rows,
        "trained_tokens": result.trained_tokens,
        "steps": result.steps,
        "losses": result.losses,
        "seconds": round(result.seconds, 3),
        "versions": {**versions(), "trl": importlib.metadata.version("trl")},
    }


def _save(model: "PeftModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    # The embedding is never trained; told so, PEFT does not ask the hub whether its size has changed.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card is a form to fill in
    tokenizer.save_pretrained(str(folder))
