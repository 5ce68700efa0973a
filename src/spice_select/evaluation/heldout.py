"""Held-out loss: how well a model predicts responses it was not trained on, in nats per trained token.

The loss of a row is the mean negative log-likelihood of its response tokens, the same quantity that fine-tuning
lowers. The headline is the macro mean, the mean of the sources' means, so that a large source does not drown a small
one.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from spice_select.errors import ConfigError, ModelError, NotFiniteError
from spice_select.evaluation import bootstrap
from spice_select.evaluation.bootstrap import RESAMPLES, Interval, PairedDifference
from spice_select.gradients.loss import TokenRow, collate, response_losses
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.pool.batches import batches_within
from spice_select.pool.examples import Pool
from spice_select.progress import NoProgress, Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class RowLoss:
    """One row: `loss` is the mean over its `trained_tokens`, in nats."""

    id: str
    source: str
    trained_tokens: int
    loss: float


@dataclass(frozen=True, slots=True)
class SourceLoss:
    """One source, losses in nats per token."""

    source: str
    rows: int
    trained_tokens: int  # of all its rows
    mean: float  # of the rows' losses; every row counts the same
    token_mean: float  # every token counts the same
    interval: Interval | None  # of `mean`; None for a single row


@dataclass(frozen=True, slots=True)
class HeldoutLoss:
    """Losses of all rows, in nats per token."""

    rows: list[RowLoss]  # in the pool's order
    sources: list[SourceLoss]  # by name
    macro: float  # mean of the sources' means, the headline
    macro_interval: Interval | None  # of `macro`; None where a source has a single row
    mean: float  # over all rows


def heldout_loss(
    model: "PreTrainedModel",
    pool: Pool,
    batch_tokens: int = 2048,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> HeldoutLoss:
    """Evaluate a causal language model in eval mode on every example of `pool`, read with this model's tokenizer.

    `batch_tokens`, the padded tokens of a forward pass, changes speed and memory, not the result; `resamples` and
    `seed` are the bootstrap's.

    Raises:
        ModelError: the tokenizer does not fit the model, a loss is not finite, or the memory does not suffice.
        ConfigError: `batch_tokens`, `resamples` or `seed` is out of range.

    """
    reporter = progress or NoProgress()
    _check_vocabulary(model, pool)
    reporter.begin("held-out loss", len(pool.examples), pool.total_tokens)
    losses = row_losses(model, pool.examples, batch_tokens, reporter.advance)
    if odd := [place for place, loss in enumerate(losses) if not np.isfinite(loss)]:
        first = pool.examples[odd[0]]
        others = f", nor are those of {len(odd) - 1:,} others" if odd[1:] else ""
        raise NotFiniteError(
            f"{first.row.location}: the loss of row '{first.id}' is not a finite number{others}.\n"
            "The weights are damaged, or their precision is too low: try --dtype float32, or another checkpoint."
        )
    rows = [
        RowLoss(example.id, example.row.source, example.trained_tokens, loss)
        for example, loss in zip(pool.examples, losses, strict=True)
    ]
    return summarise_losses(rows, resamples, seed)


def row_losses(
    model: "PreTrainedModel", examples: Sequence[TokenRow], batch_tokens: int, on_batch: Callable[[int, int], None]
) -> list[float]:
    """Mean NLL over the trained tokens of each example, in nats, in the order of `examples`.

    `on_batch` receives the rows and (unpadded) tokens of each forward pass. Raises `ModelError` when out of memory.
    """
    losses = [0.0] * len(examples)
    for places in batches_within([len(example.input_ids) for example in examples], batch_tokens):
        rows = [examples[i] for i in places]
        longest = max(len(row.input_ids) for row in rows)
        remedy = "Lower --max-length (max_length) below that, use --dtype bfloat16, or a device with more memory."
        if len(rows) > 1:  # a budget below the longest row changes nothing
            remedy = f"Lower --batch-tokens (batch_tokens), e.g. to {len(rows) // 2 * longest}."
        doing = f"measuring {len(rows):,} rows of up to {longest:,} tokens at once"
        with explain_out_of_memory(remedy, doing), torch.no_grad():
            values = cast(list[float], response_losses(model, collate(rows, model.device)).double().tolist())
        for place, value in zip(places, values, strict=True):
            losses[place] = value
        on_batch(len(rows), sum(len(row.input_ids) for row in rows))
    return losses


def summarise_losses(rows: Sequence[RowLoss], resamples: int = RESAMPLES, seed: int = 0) -> HeldoutLoss:
    """Means and intervals from the rows' losses. Raises `ConfigError` as `source_means` does."""
    members: dict[str, list[RowLoss]] = {}
    for row in sorted(rows, key=lambda row: row.source):  # a stable sort: the rows of a source keep their order
        members.setdefault(row.source, []).append(row)
    groups = {name: [row.loss for row in part] for name, part in members.items()}
    resampled = bootstrap.source_means(groups, resamples, seed)
    sources: list[SourceLoss] = []
    for name, part in members.items():
        tokens = sum(row.trained_tokens for row in part)
        token_mean = sum(row.loss * row.trained_tokens for row in part) / tokens
        interval = bootstrap.percentile_interval(resampled[name])
        sources.append(SourceLoss(name, len(part), tokens, float(np.mean(groups[name])), token_mean, interval))
    overall = float(np.mean([row.loss for row in rows]))
    return HeldoutLoss(list(rows), sources, bootstrap.macro_mean(groups), bootstrap.macro_interval(resampled), overall)


def compare(first: HeldoutLoss, second: HeldoutLoss, resamples: int = RESAMPLES, seed: int = 0) -> PairedDifference:
    """First minus second on the same rows, with an interval.

    Raises `ConfigError` if the rows differ, or they have different tokens, whose losses cannot be compared.
    """
    difference = bootstrap.paired_difference(
        {row.id: row.loss for row in first.rows},
        {row.id: row.loss for row in second.rows},
        {row.id: row.source for row in first.rows},
        resamples=resamples,
        seed=seed,
    )
    tokens = {row.id: row.trained_tokens for row in second.rows}
    odd = next((row.id for row in first.rows if row.trained_tokens != tokens[row.id]), None)
    if odd is not None:
        raise ConfigError(
            f"the two models split row '{odd}' into different numbers of tokens, so their losses cannot be compared.\n"
            "Compare models that share a tokenizer and a chat template."
        )
    return difference


def limited(pool: Pool, rows_per_source: int | None) -> Pool:
    """The first `rows_per_source` examples of each source, in the pool's order; all for None.

    Raises `ConfigError` for fewer than one row.
    """
    if rows_per_source is None:
        return pool
    if rows_per_source < 1:
        raise ConfigError(f"limit_per_source must be at least 1, not {rows_per_source}.")
    taken, kept = Counter[str](), list[int]()
    for line in pool.listing().lines:
        taken[line.source] += 1
        if taken[line.source] <= rows_per_source:
            kept.append(line.index)
    return pool.only(kept)


def _check_vocabulary(model: "PreTrainedModel", pool: Pool) -> None:
    """Raise `ModelError` for a token that the model has no embedding for."""
    embedding = cast(object, model.get_input_embeddings())
    if not isinstance(embedding, nn.Embedding):
        return
    largest = max(int(example.input_ids.max()) for example in pool.examples)
    if largest >= embedding.num_embeddings:
        raise ModelError(
            f"the tokenizer gives token {largest:,}, but the model has {embedding.num_embeddings:,} embeddings: "
            "they do not belong together.\nPut the model's own tokenizer files into the checkpoint."
        )
