"""`finetune`: LoRA fine-tuning on chosen rows with the loss that they were chosen by.

    from spice_select.training.finetune import finetune
    result = finetune("chosen", model="Qwen/Qwen3-0.6B", output="tuned")      # "chosen" is a run's directory

The same function stands behind `spice-select finetune`. Needs the extra `train`.
"""

import importlib.metadata
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState

from spice_select.config import EMBEDDED_MODEL, RunConfig, resolve
from spice_select.errors import ConfigError
from spice_select.launch import is_main_process, process_count
from spice_select.output.directory import ensure_writable
from spice_select.output.manifest import versions
from spice_select.pool.examples import PoolOptions
from spice_select.pool.sources import as_list
from spice_select.progress import NoProgress, Progress
from spice_select.proxy.embedded import HUB_NAME
from spice_select.proxy.loading import ModelSource, load_model, load_tokenizer, model_source, pick_device
from spice_select.recipe import Recipe, resolve_recipe
from spice_select.training.callback import Steps
from spice_select.training.checkpoint import Existing, check_output, where_to_stage, write_checkpoint
from spice_select.training.data import Data, TrainingRows, run_options, training_rows
from spice_select.training.processes import share_batch
from spice_select.training.trainer import add_lora, require_trl, train

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
    model: str | None = None,
    recipe: Recipe | None = None,
    rows_at_once: int = 4,
    device: str = "auto",
    dtype: str = "float32",
    existing: Existing = "refuse",
    revision: str | None = None,
    trust_remote_code: bool = False,
    format: str | None = None,  # the name it has everywhere
    columns: Mapping[str, str] | None = None,
    skip_invalid: bool = False,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Fine-tune `model` on `data` and leave the adapter in `output`.

    Launched by torchrun or accelerate, the processes share each batch and the first one writes.

    Args:
        data: the directory of a run, or pools as `select` takes them.
        output: directory of the checkpoint; it appears whole, at the end, or not at all.
        model: hub id, local directory or embedded model to train. None: the one that the run's directory names, or
            the embedded one.
        recipe: None for the defaults. Where it does not set `max_length`, that of the run's directory counts.
        rows_at_once: rows that a process computes at once; more is faster and needs more memory, and the result
            does not depend on it beyond rounding. Lowered to a divisor of the batch.
        device: auto, cpu, cuda, mps.
        dtype: float32 or bfloat16, of the frozen weights; the adapters are float32 in either case.
        existing: what to do when `output` holds a checkpoint: "refuse" or "overwrite".
        revision: of a hub model.
        trust_remote_code: allow the model's own code to run.
        format: of the rows of a pool; None finds it.
        columns: field of the format -> column of the file.
        skip_invalid: leave bad rows out instead of stopping.
        progress: told about stages and finished rows.

    Raises:
        SpiceSelectError: whatever the user can mend; the message says how. Nothing is written in that case.

    """
    run, place = run_options(data), Path(output).expanduser()
    recipe = _with_length_of(run, recipe or Recipe())
    share = share_batch(recipe.batch_size, rows_at_once, process_count())
    if not as_list(data):
        raise ConfigError("no data was given; name a run's directory, or at least one file or dataset id.")
    named = _named(run, model, revision)
    options = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    config = resolve({}, {**named, **options}, "options")
    require_trl()
    check_output(place, existing)
    source, used = model_source(config), pick_device(config.device)
    base, base_revision = _base(source, config)
    if revision and not base_revision:
        raise ConfigError(f"revision {revision}: {config.model} comes from no hub; leave out --revision.")

    tell = progress if progress is not None and is_main_process() else NoProgress()
    tell.note("reading the rows")
    tokenizer = load_tokenizer(source)
    rows = training_rows(data, tokenizer, PoolOptions(format, columns or {}, skip_invalid, recipe.max_length))
    _tell_about(rows, tell)
    ensure_writable(where_to_stage(place))
    tell.note(f"loading {config.model}")
    loaded = load_model(source, config.dtype, torch.device("cpu"))
    adapted = add_lora(loaded, recipe, base, base_revision)

    steps = Steps(tell, round(rows.rows * recipe.epochs), round(rows.tokens * recipe.epochs))
    started = time.perf_counter()
    train(adapted, tokenizer, rows.dataset, recipe, share, used, config.dtype, steps)
    seconds = time.perf_counter() - started
    result = FinetuneResult(rows.rows, rows.trained_tokens, len(steps.losses), steps.losses, seconds, place)
    if is_main_process():
        trained = EMBEDDED_MODEL if source.name == EMBEDDED_MODEL else base
        record = {"model": trained, "revision": base_revision, "dtype": config.dtype, **_record(result, recipe)}
        write_checkpoint(place, record, lambda folder: _save(adapted, tokenizer, folder))
    PartialState().wait_for_everyone()  # on return the checkpoint is there for every process
    return result


def _with_length_of(run: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """The recipe; rows are cut where the run cut them, unless it says where itself."""
    length = {"max_length": run["max_length"]} if "max_length" in run else {}
    return resolve_recipe({**length, **recipe.model_dump(exclude_unset=True)}, "run.yaml")


def _named(run: Mapping[str, Any], model: str | None, revision: str | None) -> dict[str, Any]:
    """Model and revision as given, else those of the run, else none."""
    named = {"model": model} if model else {key: run[key] for key in ("model", "revision") if key in run}
    return {**named, "revision": revision} if revision else named


def _base(source: ModelSource, config: RunConfig) -> tuple[str, str | None]:
    """Under which name and revision others find the model."""
    if source.name == EMBEDDED_MODEL:
        return HUB_NAME, None
    path = Path(source.location)
    return (str(path.resolve()), None) if path.is_dir() else (source.location, config.revision)


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


def _tell_about(rows: TrainingRows, tell: Progress) -> None:
    tell.note(f"{rows.rows:,} rows, {rows.tokens:,} tokens, {rows.trained_tokens:,} of them trained")
    if rows.left_out:
        tell.note(f"{rows.left_out:,} rows cannot be trained on and are left out")
