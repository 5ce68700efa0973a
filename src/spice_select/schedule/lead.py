"""LEAD's schedule: the model's losses, a warm-up, IFD by the proxy so warmed up, then rounds that train it from anew.

The paper likewise clusters by one model and trains another. Nothing is kept before the choice is made: a run that is
resumed starts anew, and makes the same choice.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from spice_select.choices import BadRow, PoolRecord
from spice_select.config import RunConfig
from spice_select.constants import Lead
from spice_select.methods import take_tokens
from spice_select.methods.ifd import difficulty
from spice_select.methods.lead import Ints, clusters_of, rounds
from spice_select.pool.examples import Example
from spice_select.pool.lazy_rows import Rows
from spice_select.prepared import Prepared
from spice_select.progress import Progress
from spice_select.proxy.lora import Proxy
from spice_select.proxy.update import ProxyOptimizer
from spice_select.schedule.bad_rows import refuse_empty_choice, stop_or_report
from spice_select.schedule.batching import with_batch_tokens
from spice_select.schedule.checkpoint import Checkpoint
from spice_select.schedule.pools import update_order, warm_up_rows
from spice_select.schedule.proxy_training import train
from spice_select.schedule.ranking import bad_losses, conditioned_losses, response_and_prompt_losses
from spice_select.stopwatch import Stopwatch

FEWEST = 60
"""Rows of a warm-up, at least, or all of a smaller pool: in 4 passes they are as many as LESS warms up on."""

NOTED = 10
"""Every so many rounds the run says how far it is."""


def choose_by_lead(
    prepared: Prepared, budget: int, proxy: Proxy, checkpoint: Checkpoint, progress: Progress, watch: Stopwatch
) -> list[PoolRecord]:
    """Choose `budget` rows, or the prefix of the picks whose trained tokens come nearest to a budget in tokens.

    `proxy` is fresh. Returns a single record: all rows are one pool. Raises `ModelError` where a loss is not finite
    and the options say to stop there, or where no row can be used.
    """
    config, pool = prepared.config, prepared.pool
    sized = with_batch_tokens(proxy, config, pool.examples, checkpoint.directory)
    model = _Model(sized, pool.examples, config, progress)
    with watch.time("selection"):
        before = conditioned_losses(pool.examples, sized, progress)
        model.leave_out(_not_finite(before))
    with watch.time("proxy training"):
        model.warm_up()
    with watch.time("selection"):
        losses = response_and_prompt_losses(pool.examples, sized, progress)
        model.leave_out(losses.bad())
        clusters = clusters_of(difficulty(losses.conditioned, losses.direct), model.constants.clusters)
        model.start_anew()
        picks = _rounds(model, budget, [line.source for line in pool.listing().lines], before, clusters)
    bad = [model.bad[row] for row in sorted(model.bad)]
    rows = sorted({*range(len(pool.examples))} - {row.row for row in bad})
    place = {row: number for number, row in enumerate(rows)}
    record = PoolRecord(0, rows, [place[row] for row in picks], len(picks), False, 0.0, None, bad)
    refuse_empty_choice([record])
    checkpoint.save_record(record)
    return [record]


def _not_finite(losses: Sequence[float]) -> list[int]:
    return [place for place, loss in enumerate(losses) if not math.isfinite(loss)]


def warm_up_size(constants: Lead, rows: int) -> int:
    """Rows of the warm-up on a pool of so many."""
    return min(rows, max(FEWEST, round(constants.warmup_share * rows)))


def _rounds(model: "_Model", budget: int, sources: Sequence[str], losses: Sequence[float], clusters: Ints) -> list[int]:
    """The picks of rounds until the budget is reached, cut to it; `losses` are those before any training."""
    config, progress, lengths = model.config, model.progress, model.examples.trained_tokens.astype(np.int64)
    cost = lengths if config.budget_tokens else np.ones_like(lengths)
    wanted, spent = min(config.budget_tokens or budget, int(cost[model.usable].sum())), 0
    known = [math.inf if row in model.bad else loss for row, loss in enumerate(losses)]
    numbers = np.unique(np.array(sources), return_inverse=True)[1]
    picks, uses, number, found = list[int](), 0, 0, Counter[int]()
    progress.begin("rounds", min(budget, len(model.usable)), wanted)
    for at in rounds(clusters, numbers, known, model, config.learning_rate, config.seed, model.constants):
        new = at.new[: budget - len(picks)]
        gained = min(int(cost[new].sum()), wanted - spent)
        picks += new
        uses, spent, number = uses + len(at.rows), spent + gained, number + 1
        found[at.cluster] += len(new)
        progress.advance(len(new), gained)
        if spent == wanted:
            break
        if number % NOTED == 0:
            progress.note(f"round {number:,}: {len(picks):,} rows chosen")
    of_each = ", ".join(f"{found[cluster]:,}" for cluster in range(int(clusters.max()) + 1))
    progress.note(f"{number:,} rounds of {uses:,} rows in all; picks by cluster, IFD rising: {of_each}")
    return take_tokens(picks, lengths.tolist(), config.budget_tokens) if config.budget_tokens else picks


@dataclass(slots=True)
class _Model:
    """The proxy, a `Learner` of rows of the pool by their places; `bad` are those whose loss is not finite."""

    proxy: Proxy
    examples: Rows[Example]
    config: RunConfig
    progress: Progress
    bad: dict[int, BadRow] = field(default_factory=dict[int, BadRow])
    trained: set[int] = field(default_factory=set[int])  # in a round
    optimizer: ProxyOptimizer = field(init=False)
    fresh: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = self._new_optimizer()
        self.fresh = self._weights()

    @property
    def constants(self) -> Lead:
        """Of the method."""
        return Lead.model_validate(self.config.constants)

    @property
    def usable(self) -> list[int]:
        """Rows not known to be bad."""
        return [row for row in range(len(self.examples)) if row not in self.bad]

    def warm_up(self) -> None:
        """Train on random rows, a share of the pool, in several passes."""
        usable, seed = self.usable, self.config.seed
        wanted = warm_up_size(self.constants, len(usable))
        chosen = [usable[place] for place in warm_up_rows(len(usable), wanted, seed)]
        rows = [row for number in range(self.constants.warmup_passes) for row in update_order(chosen, seed, number)]
        train(self.optimizer, [self.examples[row] for row in rows], self.config, "warm-up", self.progress)

    def start_anew(self) -> None:
        """Give the factors their first values, and a new optimizer."""
        self.optimizer = self._new_optimizer()
        parts = torch.split(self.fresh, [weight.numel() for weight in self.optimizer.weights.values()])
        with torch.no_grad():
            for weight, values in zip(self.optimizer.weights.values(), parts, strict=True):
                weight.copy_(values.view_as(weight))

    def leave_out(self, rows: Iterable[int]) -> None:
        """Stop at rows whose loss is not finite, or go on without them, as the options say."""
        new = bad_losses(self.examples, {*rows} - self.bad.keys())
        stop_or_report(new, self.config, self.progress)
        self.bad |= {row.row: row for row in new}

    def losses(self, rows: Sequence[int]) -> list[float]:
        """As `Learner.losses`. Rows that were trained on stay chosen, whatever their loss is then."""
        found = conditioned_losses([self.examples[row] for row in rows], self.proxy)
        odd = {rows[place] for place in _not_finite(found)}
        self.leave_out(odd - self.trained)
        gone = bad_losses(self.examples, odd & self.trained)
        stop_or_report(gone, self.config, self.progress, "chosen before, whose loss is not finite after training")
        return found

    def train(self, rows: Sequence[int]) -> Tensor:
        """As `Learner.train`."""
        before = self._weights()
        train(self.optimizer, [self.examples[row] for row in rows], self.config, "round", self.progress, quietly=True)
        self.trained.update(rows)
        return self._weights() - before

    def _new_optimizer(self) -> ProxyOptimizer:
        return ProxyOptimizer(self.proxy, self.config.learning_rate, self.config.lr_warmup_steps)

    def _weights(self) -> Tensor:
        return torch.cat([weight.detach().float().cpu().flatten() for weight in self.optimizer.weights.values()])
