"""The methods without gradients: all rows are ranked at once, and the budget cuts the order."""

import math
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

from spice_select.choices import BadRow, PoolRecord
from spice_select.config import RunConfig
from spice_select.constants import SelectIt
from spice_select.gradients.finite import LOSS, problem
from spice_select.gradients.loss import TokenRow, collate, response_losses
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.gradients.states import state_width
from spice_select.methods import ORDERS, RowFacts, take_tokens
from spice_select.methods.selectit import PROMPTS
from spice_select.pool.examples import Example
from spice_select.prepared import Prepared
from spice_select.progress import NoProgress, Progress
from spice_select.proxy.lora import Proxy
from spice_select.schedule.bad_rows import bad_row, refuse_empty_choice, stop_or_report
from spice_select.schedule.batching import LESS_AT_ONCE, with_batch_tokens
from spice_select.schedule.checkpoint import Checkpoint
from spice_select.schedule.rating import RATING, raters, ratings, score_probabilities
from spice_select.schedule.token_states import TokenStates, predicting_states

T = TypeVar("T")


class ResponseAlone:
    """An example without its prompt; its first token has nothing before it and is no target."""

    def __init__(self, example: TokenRow) -> None:
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
    prepared: Prepared, proxy: Proxy | None, checkpoint: Checkpoint, progress: Progress
) -> list[PoolRecord]:
    """Rank the pool by the configured method and take its budget of rows, or the prefix nearest to a budget in tokens.

    `proxy` is the model as loaded, None for a method without one. Returns a single record: all rows are one pool.
    Raises `ModelError` where what is computed of a row is not finite and the options say to stop there, or where no
    row can be used.
    """
    config, examples = prepared.config, prepared.pool.examples
    sources = [example.line.source for example in examples] if config.balance else []
    facts, bad = RowFacts(examples.trained_tokens.tolist(), config.seed, sources=sources), list[BadRow]()
    if proxy is not None:
        sized = with_batch_tokens(proxy, config, examples, checkpoint.directory)
        facts, bad = _MEASURED[config.method](prepared, sized, facts, progress)
        stop_or_report(bad, config, progress)
    unusable = {row.row for row in bad}
    rows = [row for row in range(len(examples)) if row not in unusable]
    place = {row: number for number, row in enumerate(rows)}
    picks = [place[row] for row in ranked(config, facts, unusable, progress)]
    record = PoolRecord(0, rows, picks, len(picks), False, 0.0, None, bad)
    refuse_empty_choice([record])
    checkpoint.save_record(record)
    return [record]


def ranked(config: RunConfig, facts: RowFacts, unusable: Container[int], progress: Progress) -> list[int]:
    """The picks of a method without gradients, best first, without the `unusable` rows."""
    lengths, tokens = facts.trained_tokens, config.budget_tokens
    most, picks, spent = config.budget_rows(len(lengths), sum(lengths)), list[int](), 0
    wanted = most if tokens is None else tokens
    takes_long = bool(facts.states)
    if takes_long:
        progress.begin("choosing", most, wanted)
    for row in ORDERS[config.method](facts):
        if row in unusable:
            continue
        gained = min(1 if tokens is None else lengths[row], wanted - spent)
        picks.append(row)
        spent += gained
        if takes_long:
            progress.advance(1, gained)
        if spent == wanted:
            break
    return take_tokens(picks, lengths, tokens) if tokens is not None and picks else picks


def _by_losses(prepared: Prepared, proxy: Proxy, facts: RowFacts, progress: Progress) -> tuple[RowFacts, list[BadRow]]:
    examples = prepared.pool.examples
    losses = response_and_prompt_losses(examples, proxy, progress)
    return replace(facts, conditioned=losses.conditioned, direct=losses.direct), bad_losses(examples, losses.bad())


def _by_ratings(prepared: Prepared, proxy: Proxy, facts: RowFacts, progress: Progress) -> tuple[RowFacts, list[BadRow]]:
    scores = ratings(prepared, proxy, progress)
    bad = [bad_row(prepared.pool.examples[row], RATING) for row, score in enumerate(scores) if math.isnan(score)]
    return replace(facts, scores=scores), bad


def _by_states(prepared: Prepared, proxy: Proxy, facts: RowFacts, progress: Progress) -> tuple[RowFacts, list[BadRow]]:
    states = TokenStates(prepared.pool.examples, proxy, progress)
    bad = [bad_row(prepared.pool.examples[row], problem(math.inf, "state")) for row in sorted(states.not_finite)]
    return replace(facts, states=states), bad


_MEASURED = {"ifd": _by_losses, "selectit": _by_ratings, "fishersft": _by_states}
"""Method -> what the model says of all rows, added to facts of them, and the rows of which that is not finite."""


class Passes(NamedTuple):
    """Passes of the model that a ranking takes: `run` on batches of `rows`, so many `times`."""

    stage: str
    rows: Sequence[TokenRow]
    lengths: list[int]  # tokens of each row
    run: Callable[[Sequence[TokenRow]], object]
    times: int = 1


def passes_over_rows(prepared: Prepared, proxy: Proxy, progress: Progress) -> Passes:
    """The passes of the configured method, to be timed; what else it needs time for is reported."""
    config, examples, model = prepared.config, prepared.pool.examples, proxy.model
    lengths = cast("list[int]", examples.tokens.tolist())
    if config.method == "ifd":
        return Passes("losses", examples, lengths, partial(two_losses, proxy=proxy))
    if config.method == "fishersft":
        size = prepared.pool.trained_tokens * state_width(model) * model.dtype.itemsize
        progress.note(f"not timed: the choice after the pass; {size / 1e6:,.1f} MB are in a temporary file meanwhile")
        return Passes("states", examples, lengths, partial(predicting_states, model))
    rater, prompts = raters(prepared)[0], SelectIt.model_validate(config.constants).K
    if prepared.judges:
        names = ", ".join(judge.name for judge in prepared.judges)
        progress.note(f"not timed: {prompts} passes over all rows by each judge ({names})")
    texts, run = rater.texts(PROMPTS[0], examples), partial(score_probabilities, model, scores=rater.scores)
    return Passes("ratings", texts, [len(text.input_ids) for text in texts], run, prompts)


def bad_losses(examples: Sequence[Example], rows: Collection[int]) -> list[BadRow]:
    """The record of `rows`, whose losses are not finite."""
    return [bad_row(examples[row], LOSS) for row in sorted(rows)]


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
        with explain_out_of_memory(LESS_AT_ONCE, "measuring losses with the proxy model"):
            found |= zip(batch, measure([examples[i] for i in batch]), strict=True)
        progress.advance(len(batch), sum(lengths[i] for i in batch))
    return [found[i] for i in range(len(examples))]


def two_losses(rows: Sequence[TokenRow], proxy: Proxy) -> list[tuple[float, float]]:
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
