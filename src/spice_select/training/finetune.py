"""`finetune`: LoRA fine-tuning on chosen rows with the loss that they were chosen by.

    from spice_select.training.finetune import finetune
    result = finetune("chosen", model="Qwen/Qwen3-0.6B", output="tuned")      # "chosen" is a run's directory

The same function stands behind `spice-select finetune`. Needs the extra `train`.
"""

import importlib.metadata
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from spice_select.config import EMBEDDED_MODEL
from spice_select.distributed.launch import is_main_process
from spice_select.files.directory import ensure_writable
from spice_select.files.locks import sole_writer
from spice_select.files.versions import versions
from spice_select.progress import Progress
from spice_select.training.callback import Steps
from spice_select.training.checkpoint import (
    Existing,
    check_output,
    finish_move,
    lock_of,
    parent_of_writing,
    write_checkpoint,
)
from spice_select.training.data import Data
from spice_select.training.plan import TrainingOptions, TrainingPlan, of_main_process, plan_training, read_rows
from spice_select.training.trainer import load_adapted, train

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """The outcome of a fine-tuning."""

    rows: int  # trained on
    trained_tokens: int  # targets of the loss in one pass over the rows
    steps: int  # optimizer steps
    losses: list[float]  # of each step, before it is taken: mean over its trained tokens, in nats a token
    seconds: float  # of the training itself, without loading and saving
    output: Path  # directory of the checkpoint


def finetune(
    data: Data,
    *,
    output: str | Path,
    existing: Existing = "refuse",
    progress: Progress | None = None,
    **options: Any,
) -> FinetuneResult:
    """Fine-tune a model on `data` and leave the adapter in `output`.

    Launched by torchrun or accelerate, the processes share each batch and the first one writes.

    Args:
        data: the directory of a run, or pools as `select` takes them.
        output: directory of the checkpoint; it appears whole, at the end, or not at all.
        existing: what to do when `output` holds a checkpoint: "refuse" or "overwrite".
        progress: receives stages and finished rows.
        **options: fields of `TrainingOptions`: model, recipe, rows_at_once, device, ...

    Raises:
        SpiceSelectError: something that the user can fix; the message says how. Nothing is written in that case.

    """
    place = Path(output).expanduser()
    plan = plan_training(data, TrainingOptions(**options))
    if is_main_process():
        finish_move(place)
    check_output(place, existing)
    reporter, epochs = of_main_process(progress), plan.recipe.epochs
    tokenizer, rows = read_rows(plan, reporter)
    ensure_writable(parent_of_writing(place))
    with sole_writer(place, lock_of(place)) if is_main_process() else nullcontext():
        check_output(place, existing)  # again, now that no other process can write it
        adapted = load_adapted(plan, reporter)
        steps = Steps(reporter, round(rows.rows * epochs), round(rows.tokens * epochs))
        seconds = train(adapted, tokenizer, rows.dataset, plan, steps)
        result = FinetuneResult(rows.rows, rows.trained_tokens, len(steps.losses), steps.losses, seconds, place)
        if is_main_process():
            write_checkpoint(place, _record(result, plan), lambda folder: _save(adapted, tokenizer, folder))
    PartialState().wait_for_everyone()  # when this returns, every process finds the checkpoint
    return result


def _record(result: FinetuneResult, plan: TrainingPlan) -> dict[str, object]:
    figures = {key: value for key, value in asdict(result).items() if key != "output"}
    return {
        "model": EMBEDDED_MODEL if plan.source.name == EMBEDDED_MODEL else plan.base,
        "revision": plan.base_revision,
        "dtype": plan.config.dtype,
        "recipe": plan.recipe.model_dump(),
        **figures,
        "versions": {**versions(), "trl": importlib.metadata.version("trl")},
    }


def _save(model: "PeftModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    # The embedding is never trained; without this PEFT asks the hub whether its size has changed.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card is an empty form
    tokenizer.save_pretrained(str(folder))
