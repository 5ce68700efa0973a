"""The plan of a fine-tuning: options checked against each other, the model found, the rows read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from spice_select.config import RunConfig, resolve
from spice_select.distributed.launch import process_count
from spice_select.errors import ConfigError, SpiceSelectError
from spice_select.file_options import FileOptions
from spice_select.option_values import EMBEDDED_MODEL
from spice_select.pool.examples import PoolOptions
from spice_select.pool.sources import as_list
from spice_select.progress import Progress
from spice_select.proxy.embedded import HUB_NAME
from spice_select.proxy.loading import ModelSource, load_tokenizer, model_source, pick_device, resolved_dtype
from spice_select.recipe import Recipe, resolve_recipe
from spice_select.training.data import Data, TrainingRows, run_options, training_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class BatchSplit(NamedTuple):
    """How a batch becomes one optimizer step: `rows_at_once` rows per process, `accumulation` times."""

    rows_at_once: int
    accumulation: int


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The data, the model and the recipe of a fine-tuning."""

    data: Data  # the directory of a run, or pools
    reading: PoolOptions  # how rows of pools are read
    recipe: Recipe  # with the length at which rows are cut
    split: BatchSplit
    config: RunConfig  # model, device and dtype, as options of a run
    source: ModelSource
    device: torch.device
    base: str  # the name under which others find the model
    base_revision: str | None  # of `base` on the hub


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Options of a fine-tuning."""

    model: str | None = None  # hub id, directory or embedded model; None: the run's, or else the embedded one
    recipe: Recipe | None = None  # where it does not set `max_length`, that of the run's directory counts
    rows_at_once: int = 4  # by a process, lowered to a divisor of the batch; decides speed and memory, not the result
    device: str = "auto"  # or cpu, cuda, mps
    dtype: str = "auto"  # or float32, bfloat16; of the frozen weights: the adapters are float32 in any case
    revision: str | None = None  # of a hub model
    trust_remote_code: bool = False  # allow the model's own code to run
    chat_template: str | None = (
        None  # file, or name of one that TRL ships; None: the run's with its model, or the tokenizer's
    )
    format: str | None = None  # of the rows of a pool; None finds it
    columns: Mapping[str, str] | None = None  # field of the format -> column of the file
    per_file: Mapping[str, FileOptions] | None = None  # the same two for single inputs, by their names
    skip_invalid: bool = False  # leave bad rows out instead of stopping


def plan_training(data: Data, options: TrainingOptions) -> TrainingPlan:
    """Resolve the options for `data`; neither rows nor weights are read.

    Raises `SpiceSelectError` if an option is wrong, or the model's files or TRL are missing.
    """
    run = run_options(data)
    length = {"max_length": run["max_length"]} if "max_length" in run else {}
    given = options.recipe.model_dump(exclude_unset=True) if options.recipe else {}
    recipe = resolve_recipe({**length, **given}, "run.yaml")
    split = split_batch(recipe.batch_size, options.rows_at_once, process_count())
    if not as_list(data):
        raise ConfigError("no data was given; name a run's directory, or at least one file or dataset id.")
    named = {"model": options.model} if options.model else {k: run[k] for k in ("model", "revision") if k in run}
    if template := options.chat_template or (None if options.model else run.get("chat_template")):
        named["chat_template"] = template
    keys = ("dtype", "device", "trust_remote_code", *(["revision"] if options.revision else []))
    config = resolve(named, {key: getattr(options, key) for key in keys}, "options")
    require_trl()
    source, device = model_source(config), pick_device(config.device)
    config = config.model_copy(update={"dtype": resolved_dtype(config.dtype, device)})
    base, base_revision = _public_name(source, config)
    if options.revision and not base_revision:
        raise ConfigError(f"revision {options.revision}: {config.model} comes from no hub; leave out --revision.")
    own = options.per_file or {}
    reading = PoolOptions(options.format, options.columns or {}, options.skip_invalid, recipe.max_length, own)
    return TrainingPlan(data, reading, recipe, split, config, source, device, base, base_revision)


def split_batch(batch_size: int, rows_at_once: int, processes: int) -> BatchSplit:
    """Cut a batch into equal parts of at most `rows_at_once` rows; `ConfigError` if `processes` cannot share it."""
    if rows_at_once < 1:
        raise ConfigError(f"rows_at_once must be at least 1, not {rows_at_once}.")
    own, rest = divmod(batch_size, processes)
    if rest or not own:
        raise ConfigError(
            f"batch_size {batch_size} cannot be shared equally by {processes} processes; "
            f"make it a multiple of {processes}."
        )
    rows = next(rows for rows in range(min(rows_at_once, own), 0, -1) if own % rows == 0)
    return BatchSplit(rows, own // rows)


def require_trl() -> None:
    """Raise `SpiceSelectError`, which says how to install it, if TRL is missing."""
    try:
        import trl  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise SpiceSelectError(
            f"fine-tuning needs TRL, which cannot be imported ({error}).\nRun: pip install 'spice-select[train]'"
        ) from error


def read_rows(plan: TrainingPlan, progress: Progress) -> "tuple[PreTrainedTokenizerBase, TrainingRows]":
    """The model's tokenizer, and the rows tokenised with it. Raises as `training_rows` does."""
    progress.note("reading the rows")
    tokenizer = load_tokenizer(plan.source)
    rows = training_rows(plan.data, tokenizer, plan.reading, progress.note)
    progress.note(f"{rows.rows:,} rows, {rows.tokens:,} tokens, {rows.trained_tokens:,} of them trained")
    return tokenizer, rows


def _public_name(source: ModelSource, config: RunConfig) -> tuple[str, str | None]:
    if source.name == EMBEDDED_MODEL:
        return HUB_NAME, None
    path = Path(source.location)
    return (str(path.resolve()), None) if path.is_dir() else (source.location, config.revision)
