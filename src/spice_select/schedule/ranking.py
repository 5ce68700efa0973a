"""The methods without gradients: all rows are ranked at once, and the budget cuts the order."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

from spice_select.choices import BadRow, PoolRecord
from spice_select.config import RunConfig
from spice_select.gradients.finite import LOSS
from spice_select.gradients.loss import TokenRow, collate, response_losses
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.methods import ORDERS, RowFacts, take_tokens
from spice_select.pool.examples import Example
from spice_select.pool.lazy_rows import Rows
from spice_select.progress import NoProgress, Progress
from spice_select.proxy.lora import Proxy
from spice_select.schedule.bad_rows import bad_row, refuse_empty_choice, stop_or_report
from spice_select.schedule.batching import with_token_budget
from spice_select.schedule.checkpoint import Checkpoint

T = TypeVar("T")

OUT_OF_MEMORY = "Use a machine with more memory, or `run --overwrite` with a lower --token-budget or --max-length."


class ResponseAlone:
    """An example without its prompt; its first token has nothing before it and is no target."""

    def __init__(self, example: Example) -> None:
        self.input_ids: npt.NDArray[np.int32] = example.input_ids[example.trained]
        self.trained: npt.NDArray[np.bool_] = np.arange(len(self.input_ids)) > 0


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean NLL of n responses after their prompts, and alone: NaN for one of one token, infinite if not finite."""

    conditioned: list[float]
    direct: list[float]

    def bad(self) -> set[int]:
        """Rows that have a loss which is not finite."""
        pairs = enumerate(zip(self.conditioned, self.direct, strict=True))
        return {row for row, (after_prompt, alone) in pairs if not math.isfinite(after_prompt) or math.isinf(alone)}


def choose_by_rank(
    examples: Rows[Example], config: RunConfig, proxy: Proxy | None, checkpoint: Checkpoint, progress: Progress
) -> list[PoolRecord]:
    """Rank `examples` by `config.method` and take its budget of rows, or the prefix nearest to a budget in tokens.

    Only ifd needs `proxy`, as loaded. Returns a single record: all rows are one pool. Raises `ModelError` where a loss
    is not finite and `config` says to stop there, or where no row can be used.
    """
    losses, bad = None, list[BadRow]()
    if proxy is not None:
        sized = with_token_budget(proxy, config, examples, checkpoint.directory)
        losses = response_and_prompt_losses(examples, sized, progress)
        bad = bad_losses(examples, losses)
        stop_or_report(bad, config, progress)
    unusable = {row.row for row in bad}
    rows = [row for row in range(len(examples)) if row not in unusable]
    place = {row: number for number, row in enumerate(rows)}
    picks = [place[row] for row in ranked(examples, config, losses)]
    record = PoolRecord(0, rows, picks, len(picks), False, 0.0, None, bad)
    refuse_empty_choice([record])
    checkpoint.save_record(record)
    return [record]


def bad_losses(examples: Sequence[Example], losses: Losses) -> list[BadRow]:
    """Rows whose losses are not finite."""
    return [bad_row(examples[row], LOSS) for row in sorted(losses.bad())]


def ranked(examples: Rows[Example], config: RunConfig, losses: Losses | None) -> list[int]:
    """The picks of a method without gradients, best first; rows whose loss is not finite are left out."""
    lengths: list[int] = examples.trained_tokens.tolist()
    known = losses or Losses([], [])
    bad = known.bad()
    ordered = ORDERS[config.method](RowFacts(lengths, config.seed, known.conditioned, known.direct))
    order = [row for row in ordered if row not in bad]
    if config.budget_tokens is None or not order:
        return order[: config.budget_rows(len(examples), sum(lengths))]
    return take_tokens(order, lengths, config.budget_tokens)


def response_and_prompt_losses(examples: Sequence[Example], proxy: Proxy, progress: Progress) -> Losses:
    """One forward pass over the responses after their prompts, and one over the responses alone."""
    found = _in_batches(examples, proxy, lambda rows: two_losses(rows, proxy), progress)
    return Losses([after_prompt for after_prompt, _ in found], [alone for _, alone in found])


def conditioned_losses(examples: Sequence[Example], proxy: Proxy, progress: Progress | None = None) -> list[float]:
    """One forward pass over the responses after their prompts: the mean NLL of each."""
    return _in_batches(examples, proxy, lambda rows: mean_losses(rows, proxy), progress or NoProgress())


def _in_batches(
    examples: Sequence[Example], proxy: Proxy, measure: Callable[[Sequence[Example]], Sequence[T]], progress: Progress
) -> list[T]:
    lengths = [len(example.input_ids) for example in examples]
    progress.begin("losses", len(examples), sum(lengths))
    found: dict[int, T] = {}
    for batch in proxy.batches(lengths):
        with explain_out_of_memory(OUT_OF_MEMORY, "measuring losses with the proxy model"):
            found |= zip(batch, measure([examples[i] for i in batch]), strict=True)
        progress.advance(len(batch), sum(lengths[i] for i in batch))
    return [found[i] for i in range(len(examples))]


def two_losses(rows: Sequence[Example], proxy: Proxy) -> list[tuple[float, float]]:
    """Mean NLL of each response after its prompt, and alone: NaN for one of one token, infinite if not finite."""
    responses = [ResponseAlone(row) for row in rows]
    after_prompt, alone = mean_losses(rows, proxy), mean_losses(responses, proxy)
    return [
        (loss, math.nan if len(row.input_ids) <= 1 else direct if math.isfinite(direct) else math.inf)
        for loss, direct, row in zip(after_prompt, alone, responses, strict=True)
    ]


def mean_losses(rows: Sequence[TokenRow], proxy: Proxy) -> list[float]:
    """Mean NLL of each row's trained tokens."""
    with torch.no_grad():
        return cast("list[float]", response_losses(proxy.model, collate(rows, proxy.device)).tolist())
