"""A fine-tuning before it starts: options that fit each other, rows, and the model with its adapters."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from spice_select.config import EMBEDDED_MODEL, RunConfig, resolve
from spice_select.distributed.launch import is_main_process, process_count
from spice_select.errors import ConfigError
from spice_select.pool.examples import PoolOptions
from spice_select.pool.sources import as_list
from spice_select.progress import NoProgress, Progress
from spice_select.proxy.embedded import HUB_NAME
from spice_select.proxy.loading import (
    ModelSource,
    load_model,
    load_tokenizer,
    model_source,
    pick_device,
    resolved_dtype,
)
from spice_select.recipe import Recipe, resolve_recipe
from spice_select.training.data import Data, TrainingRows, run_options, training_rows
from spice_select.training.processes import Share, share_batch
from spice_select.training.trainer import add_lora, require_trl

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What is to be trained, on what, and how.

    Attributes:
        data: the directory of a run, or pools.
        reading: how rows of pools are read.
        recipe: with the length at which rows are cut.
        share: of this process in a batch.
        config: model, device and dtype, as options of a run.
        source: of the model.
        device: where it is trained.
        base: under which name others find the model.
        base_revision: of `base` on the hub.

    """

    data: Data
    reading: PoolOptions
    recipe: Recipe
    share: Share
    config: RunConfig
    source: ModelSource
    device: torch.device
    base: str
    base_revision: str | None


class TrainingOptions(TypedDict, total=False):
    """What may be said of a fine-tuning.

    Attributes:
        model: hub id, local directory or embedded model to train. None: the one that the run's directory names, or
            the embedded one.
        recipe: None for the defaults. Where it does not set `max_length`, that of the run's directory counts.
        rows_at_once: 4; rows that a process computes at once. More is faster and needs more memory, and the result
            does not depend on it beyond rounding. Lowered to a divisor of the batch.
        device: auto, cpu, cuda, mps.
        dtype: float32, bfloat16 or auto, of the frozen weights; the adapters are float32 in any case.
        revision: of a hub model.
        trust_remote_code: allow the model's own code to run.
        format: of the rows of a pool; None finds it.
        columns: field of the format -> column of the file.
        skip_invalid: leave bad rows out instead of stopping.

    """

    model: str | None
    recipe: Recipe | None
    rows_at_once: int
    device: str
    dtype: str
    revision: str | None
    trust_remote_code: bool
    format: str | None
    columns: Mapping[str, str] | None
    skip_invalid: bool


def plan_training(
    data: Data,
    *,
    model: str | None = None,
    recipe: Recipe | None = None,
    rows_at_once: int = 4,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    format: str | None = None,  # the name it has everywhere
    columns: Mapping[str, str] | None = None,
    skip_invalid: bool = False,
) -> TrainingPlan:
    """Settle what `TrainingOptions` mean for `data`; neither rows nor weights are read.

    Raises:
        SpiceSelectError: an option is wrong, the model's files are not there, or TRL is missing.

    """
    run = run_options(data)
    recipe = _with_length_of(run, recipe or Recipe())
    share = share_batch(recipe.batch_size, rows_at_once, process_count())
    if not as_list(data):
        raise ConfigError("no data was given; name a run's directory, or at least one file or dataset id.")
    options = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    config = resolve({}, {**_named(run, model, revision), **options}, "options")
    require_trl()
    source, used = model_source(config), pick_device(config.device)
    config = config.model_copy(update={"dtype": resolved_dtype(config.dtype, used)})
    base, base_revision = _base(source, config)
    if revision and not base_revision:
        raise ConfigError(f"revision {revision}: {config.model} comes from no hub; leave out --revision.")
    reading = PoolOptions(format, columns or {}, skip_invalid, recipe.max_length)
    return TrainingPlan(data, reading, recipe, share, config, source, used, base, base_revision)


def of_main_process(progress: Progress | None) -> Progress:
    """`progress` in the first process of a launch; the others say nothing."""
    return progress if progress is not None and is_main_process() else NoProgress()


def read_rows(plan: TrainingPlan, tell: Progress) -> "tuple[PreTrainedTokenizerBase, TrainingRows]":
    """The model's tokenizer, and the rows read with it. Raises as `training_rows` does."""
    tell.note("reading the rows")
    tokenizer = load_tokenizer(plan.source)
    rows = training_rows(plan.data, tokenizer, plan.reading)
    tell.note(f"{rows.rows:,} rows, {rows.tokens:,} tokens, {rows.trained_tokens:,} of them trained")
    if rows.left_out:
        tell.note(f"{rows.left_out:,} rows cannot be trained on and are left out")
    return tokenizer, rows


def load_adapted(plan: TrainingPlan, tell: Progress) -> "PeftModel":
    """The model with fresh adapters, on the CPU. Raises `ModelError` as `load_model` and `add_lora` do."""
    tell.note(f"loading {plan.config.model}")
    loaded = load_model(plan.source, plan.config.dtype, torch.device("cpu"))
    return add_lora(loaded, plan.recipe, plan.base, plan.base_revision)


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
