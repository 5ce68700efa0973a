"""What a fine-tuning would take, from a few steps of it.

    from spice_select.training.forecast import forecast_finetune
    forecast_finetune("chosen", model="Qwen/Qwen3-0.6B").lines()

The same function stands behind `spice-select finetune --dry-run`. Needs the extra `train`.
"""

import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from torch import nn

from spice_select.costs.forecast import Forecast
from spice_select.costs.memory import PeakMemory, obtainable_bytes
from spice_select.distributed.launch import process_count
from spice_select.progress import Progress
from spice_select.training.callback import TimedSteps
from spice_select.training.data import Data, TrainingRows
from spice_select.training.plan import (
    TrainingOptions,
    TrainingPlan,
    load_adapted,
    of_main_process,
    plan_training,
    read_rows,
)
from spice_select.training.processes import Share
from spice_select.training.trainer import train

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

TIMED = 3
"""Optimizer steps that are timed, on rows of all lengths; a pass over the longest rows comes before, to warm up."""

REMEDY = "lower --rows-at-once or --max-length, or use --dtype bfloat16"


def forecast_finetune(data: Data, *, progress: Progress | None = None, **options: Unpack[TrainingOptions]) -> Forecast:
    """What `finetune` would take for the same arguments: time, memory, disk. A few steps are done, nothing is kept.

    Raises:
        SpiceSelectError: as `finetune`.

    """
    plan = plan_training(data, **options)
    tell = of_main_process(progress)
    tokenizer, rows = read_rows(plan, tell)
    adapted = load_adapted(plan, tell)
    adapted.to(plan.device)
    tell.note("timing a few steps")
    parameters = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    peak = PeakMemory(plan.device)
    seconds = _training_seconds(plan, adapted, tokenizer, rows)
    return Forecast(
        rows.rows,
        rows.tokens,
        rows.trained_tokens,
        {"fine-tuning": seconds},
        peak.bytes() + 3 * 4 * parameters,  # AdamW's moments, and gradients that wait: the first step had none
        obtainable_bytes(plan.device),
        4 * parameters + _saved_bytes(tokenizer),
        REMEDY,
    )


def _training_seconds(
    plan: TrainingPlan, adapted: "PeftModel", tokenizer: "PreTrainedTokenizerBase", rows: TrainingRows
) -> float:
    """Time of all steps, from `TIMED` of them, by the padded tokens of each."""
    lengths = rows.lengths
    longest_first = sorted(range(rows.rows), key=lambda row: -lengths[row])

    def steps(members: Sequence[int], share: Share) -> tuple[float, int]:
        """Train on `members` once: seconds, and this process's padded tokens."""
        recipe, timed = plan.recipe.model_copy(update={"epochs": 1.0}), TimedSteps()
        with _counted_tokens(adapted) as passes:
            dataset = rows.dataset.select(members)
            train(adapted, tokenizer, dataset, recipe, share, plan.device, plan.config.dtype, timed)
        return timed.seconds, sum(passes)

    width = plan.share.rows_at_once
    steps(longest_first[: width * process_count()], Share(width, 1))
    count = min(rows.rows, TIMED * plan.recipe.batch_size)
    seconds, tokens = steps([longest_first[i * rows.rows // count] for i in range(count)], plan.share)
    whole = plan.recipe.epochs * _padded_tokens(lengths, width, plan.recipe.seed) / process_count()
    return seconds * whole / tokens


@contextmanager
def _counted_tokens(model: nn.Module) -> Generator[list[int]]:
    """Within the context the tokens of each forward pass of `model`, padding included, are noted down."""
    passes: list[int] = []

    def note(_: nn.Module, __: tuple[Any, ...], arguments: dict[str, Any]) -> None:
        passes.append(arguments["input_ids"].numel())

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


def _padded_tokens(lengths: Sequence[int], rows_at_once: int, seed: int) -> int:
    """Tokens of one pass over the rows in random order, each padded to the longest of those computed with it."""
    order = np.random.default_rng(seed).permutation(lengths)
    batches = (order[start : start + rows_at_once] for start in range(0, len(order), rows_at_once))
    return sum(len(batch) * int(batch.max()) for batch in batches)


def _saved_bytes(tokenizer: "PreTrainedTokenizerBase") -> int:
    with tempfile.TemporaryDirectory(prefix="spice-select-") as scratch:
        tokenizer.save_pretrained(scratch)
        return sum(path.stat().st_size for path in Path(scratch).rglob("*") if path.is_file())
