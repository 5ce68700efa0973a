"""`finetune`: LoRA fine-tuning on chosen rows with the loss by which they were chosen. Needs the extra `train`.

from spice_select import finetune
result = finetune("chosen", model="Qwen/Qwen3-0.6B", output="tuned")      # "chosen" is a run's directory
"""

import importlib.metadata
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from spice_select.distributed.launch import is_main_process
from spice_select.files.directory import ensure_writable
from spice_select.files.locks import sole_writer
from spice_select.files.versions import versions
from spice_select.option_values import EMBEDDED_MODEL
from spice_select.progress import NoProgress, Progress
from spice_select.training import checkpoint
from spice_select.training.callback import Steps
from spice_select.training.data import Data, target_digests
from spice_select.training.plan import TrainingOptions, TrainingPlan, plan_training, read_rows
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
    losses: list[float]  # of each step, before its update: mean over its trained tokens, in nats per token
    seconds: float  # of the training itself, without loading and saving
    output: Path  # directory of the checkpoint


def finetune(
    data: Data,
    *,
    output: str | Path,
    existing: checkpoint.ExistingCheckpoint = "refuse",
    progress: Progress | None = None,
    **options: Any,
) -> FinetuneResult:
    """Fine-tune a model on `data` and write the adapter to `output`.

    Launched by torchrun or accelerate, the processes share each batch and the first one writes.

    Args:
        data: the directory of a run, or pools as `select` takes them.
        output: directory of the checkpoint; it appears complete at the end, or not at all.
        existing: what to do when `output` holds a checkpoint: "refuse" or "overwrite".
        progress: receives stages and finished rows.
        **options: fields of `TrainingOptions`: model, recipe, rows_at_once, device, ...

    Raises:
        SpiceSelectError: a mistake that the user can correct; the message says how. Nothing is written then.

    """
    place = Path(output).expanduser()
    plan = plan_training(data, TrainingOptions(**options))
    if is_main_process():
        checkpoint.finish_move(place)
    checkpoint.check_output(place, existing)
    reporter, epochs = progress or NoProgress(), plan.recipe.epochs
    tokenizer, rows = read_rows(plan, reporter)
    ensure_writable(checkpoint.parent_of_writing(place))
    with sole_writer(place, checkpoint.lock_of(place)) if is_main_process() else nullcontext():
        checkpoint.check_output(place, existing)  # again, now that no other process can write it
        adapted = load_adapted(plan, reporter)
        steps = Steps(reporter, round(rows.rows * epochs), round(rows.tokens * epochs))
        seconds = train(adapted, tokenizer, rows.dataset, plan, steps)
        result = FinetuneResult(rows.rows, rows.trained_tokens, len(steps.losses), steps.losses, seconds, place)
        if is_main_process():
            checkpoint.write_checkpoint(place, _record(result, plan), lambda folder: _save(adapted, tokenizer, folder))
    PartialState().wait_for_everyone()  # when this returns, every process finds the checkpoint
    return result


def _record(result: FinetuneResult, plan: TrainingPlan) -> dict[str, object]:
    figures = {key: value for key, value in asdict(result).items() if key != "output"}
    return {
        "model": EMBEDDED_MODEL if plan.source.name == EMBEDDED_MODEL else plan.base,
        "revision": plan.base_revision,
        "dtype": plan.config.dtype,
        "recipe": plan.recipe.model_dump(),
        "target": target_digests(plan.data),
        **figures,
        "versions": {**versions(), "trl": importlib.metadata.version("trl")},
    }


def _save(model: "PeftModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    # The embedding is never trained; without this PEFT asks the hub whether its size has changed.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card is an empty form
    tokenizer.save_pretrained(str(folder))
