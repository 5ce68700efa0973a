"""The paper's procedure: choose inside pools of m rows, and train the proxy on the picks after every T pools.

    cycle 0: [warm-up]          pool 0 ... pool T-1
    cycle 1: train on picks     pool T ... pool 2T-1
    ...
Inside a cycle the proxy stands still, so its pools depend on nothing but the cycle's starting proxy: several processes
share them out, and train on the picks together. A checkpoint is written after every pool and every update; resuming
takes up the newest state and gives the identical subset.
"""

import json
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from spice_select.amounts import GIB
from spice_select.choices import PoolRecord
from spice_select.config import RunConfig
from spice_select.distributed.process_group import texts_of_all
from spice_select.errors import ModelError, OutputError
from spice_select.gradients.gram import HeldGradients, layer_groups, pool_gram, rows_held
from spice_select.gradients.memory import host_memory
from spice_select.information.ranks import ALONE, Ranks
from spice_select.pool.examples import Example
from spice_select.progress import Progress
from spice_select.proxy.lora import Proxy, merged
from spice_select.proxy.update import ProxyOptimizer
from spice_select.schedule.bad_rows import refuse_empty_choice, settle, settle_step
from spice_select.schedule.batching import with_token_budget
from spice_select.schedule.checkpoint import Checkpoint
from spice_select.schedule.forecast import WORTH, forecast_pools
from spice_select.schedule.pick_in_pool import choose_among_usable, choose_nothing
from spice_select.schedule.pools import (
    CandidatePool,
    cut_cycles,
    cut_pools,
    rows_in_a_pool,
    update_order,
    warm_up_rows,
)
from spice_select.stopwatch import Stopwatch


def run_interleaved(
    examples: Sequence[Example],
    budget: int,
    config: RunConfig,
    proxy: Proxy,
    checkpoint: Checkpoint,
    progress: Progress,
    watch: Stopwatch,
    ranks: Ranks = ALONE,
) -> list[PoolRecord]:
    """Choose `budget` of `examples` pool by pool, training `proxy` in between.

    With a stop ratio the budget is a cap. Finished pools found in `checkpoint` are not computed again. Several
    processes work in one checkpoint directory and return the same records.

    Returns:
        One record a pool, in order.

    Raises:
        ModelError: a loss or gradient is not finite and `config` says to stop there; or no row at all can be used.

    """
    pools = cut_pools(len(examples), rows_in_a_pool(config, len(examples)), budget, config.seed)
    found = json.loads(texts_of_all(ranks, _as_text(checkpoint.records().values()))[0])
    records = {record.pool: record for record in map(PoolRecord.from_json, found)}
    sized = with_token_budget(proxy, config, examples, checkpoint.directory)
    optimizer = ProxyOptimizer.create(sized, config.learning_rate, config.lr_warmup_steps)
    run = _Run(examples, config, optimizer, checkpoint, progress, watch, ranks, records, pools)
    run.announce()
    cycles = cut_cycles(pools, config.update_every)
    for cycle, members in enumerate(cycles):
        run.cycle(cycle, members, last=cycle == len(cycles) - 1)
    ordered = [records[pool.index] for pool in pools]
    refuse_empty_choice(ordered)
    return ordered


def warm_up(
    optimizer: ProxyOptimizer,
    examples: Sequence[Example],
    config: RunConfig,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> None:
    """Train the proxy on seeded random rows before its first pool, so that LoRA's B leaves zero."""
    rows = warm_up_rows(len(examples), config.warmup_steps * config.update_batch_size, config.seed)
    _train(optimizer, [examples[i] for i in rows], config, "warm-up", progress, ranks)


def _as_text(records: Iterable[PoolRecord]) -> str:
    return json.dumps([record.to_json() for record in records])


def _with_smaller_batches(proxy: Proxy, lengths: Sequence[int]) -> Proxy | None:
    """`proxy` with the budget halved until it cuts rows of `lengths` otherwise; None where each is alone already."""
    before, smaller = proxy.batches(lengths), proxy
    if all(len(batch) == 1 for batch in before):
        return None
    while smaller.batches(lengths) == before:
        smaller = replace(smaller, token_budget=max(1, smaller.token_budget // 2))
    return smaller


def _train(
    optimizer: ProxyOptimizer, rows: Sequence[Example], config: RunConfig, label: str, progress: Progress, ranks: Ranks
) -> None:
    if not rows:
        return

    def on_bad(bad: Mapping[int, str]) -> None:
        settle_step(rows, bad, label, config, progress)

    with memory_advice():
        losses = optimizer.train_on(rows, config.update_batch_size, ranks, on_bad)
    told = f", loss {losses[0]:.3f} -> {losses[-1]:.3f}" if losses else ": no step could be made"
    progress.note(f"{label}: proxy trained on {len(rows)} rows{told}")


ALONE_TOO_MUCH = "A row alone is too much: lower --max-length, or take another --model."
ADVICE = "Lower --gradient-memory, in float32 also --token-budget, and go on with --resume; or use a smaller --model."


@contextmanager
def memory_advice(advice: str = ADVICE) -> Generator[None]:
    """Turn an exhausted accelerator or allocator into an error that says which options help."""
    try:
        with host_memory():
            yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(advice) from error


def out_of_memory(advice: str = ADVICE) -> ModelError:
    """What to do about it."""
    return ModelError(f"out of memory in the proxy's forward and backward pass.\n{advice}")


@dataclass(slots=True)
class _Run:
    examples: Sequence[Example]
    config: RunConfig
    optimizer: ProxyOptimizer
    checkpoint: Checkpoint
    progress: Progress
    watch: Stopwatch
    ranks: Ranks
    records: dict[int, PoolRecord]
    pools: list[CandidatePool]
    live_cycle: int | None = None  # the cycle the proxy in memory stands at
    unused_picks: list[int] = field(default_factory=list[int])  # picks since the last update
    told: bool = False  # the forecast

    def announce(self) -> None:
        """Say how much there is to do, and how much of it an earlier run did."""
        self.progress.begin("choosing", len(self.examples), self._tokens(range(len(self.examples))))
        if self.records:
            done = [row for record in self.records.values() for row in record.looked_at]
            self.progress.resume(len(done), self._tokens(done))
            self.progress.note(f"resuming: {len(self.records)} of {len(self.pools)} pools are done")

    def _tokens(self, rows: Iterable[int]) -> int:
        return sum(len(self.examples[row].input_ids) for row in rows)

    def cycle(self, cycle: int, members: list[CandidatePool], last: bool) -> None:
        """Bring the proxy to the cycle's start where that is needed, and choose in the pools not yet done."""
        saved = self._saved_proxy()
        missing = [pool for pool in members if pool.index not in self.records]
        if missing and saved is not None and saved > cycle:
            raise OutputError(
                f"{self.checkpoint.directory}: pool {missing[0].index} is missing, but the proxy has moved on since.\n"
                "Start afresh with --overwrite."
            )
        if missing or (not last and (saved is None or saved <= cycle)):
            self._bring_proxy_to(cycle, saved)
        own = missing[self.ranks.rank :: self.ranks.size]
        if own:
            held = HeldGradients()  # given back before the proxy trains
            with merged(self.optimizer.proxy):
                self._tell_forecast()
                for pool in own:
                    self._choose(pool, held)
        self._exchange([pool.index for pool in own])
        self.unused_picks = [row for pool in members for row in self.records[pool.index].picked_rows]

    def _tell_forecast(self) -> None:
        """Once, when the proxy is ready: what is still to be done will take."""
        if self.told or self.ranks.rank > 0:
            return
        self.told = True
        missing = [pool for pool in self.pools if pool.index not in self.records]
        with self.watch.time("forecast"):
            try:
                forecast = forecast_pools(
                    self.examples, missing, self.config, self.optimizer.proxy, self.ranks.size, WORTH
                )
            except torch.OutOfMemoryError:
                return  # the pools know how to go on in smaller batches
        self.progress.note("\n".join(forecast.lines()))

    def _saved_proxy(self) -> int | None:
        """The cycle whose starting proxy is saved, as the first process sees it."""
        saved = self.checkpoint.proxy_cycle()
        told = int(self.ranks.broadcast(torch.tensor(-1 if saved is None else saved), 0))
        return None if told < 0 else told

    def _exchange(self, own: list[int]) -> None:
        """Tell the other processes of the pools that this one chose in, and hear of theirs."""
        for rank, text in enumerate(texts_of_all(self.ranks, _as_text(self.records[index] for index in own))):
            if rank != self.ranks.rank:
                for record in map(PoolRecord.from_json, json.loads(text)):
                    self.records[record.pool] = record
                    self.progress.advance(len(record.looked_at), self._tokens(record.looked_at))

    def _bring_proxy_to(self, cycle: int, saved: int | None) -> None:
        if self.live_cycle == cycle:
            return
        if saved == cycle:
            self.optimizer.restore(*self.checkpoint.load_proxy(cycle))
        else:
            if saved is not None and self.live_cycle != saved:
                self.optimizer.restore(*self.checkpoint.load_proxy(saved))
            with self.watch.time("proxy training"):
                self._train(cycle)
            if self.ranks.rank == 0:
                self.checkpoint.save_proxy(cycle, self.optimizer.state(), self.optimizer.steps)
        self.live_cycle = cycle

    def _train(self, cycle: int) -> None:
        config = self.config
        if cycle == 0:
            warm_up(self.optimizer, self.examples, config, self.progress, self.ranks)
        else:
            picks = [self.examples[i] for i in update_order(self.unused_picks, config.seed, cycle)]
            _train(self.optimizer, picks, config, f"update {cycle}", self.progress, self.ranks)

    def _choose(self, pool: CandidatePool, held: HeldGradients) -> None:
        record = self._measured_choice(pool, held) if pool.quota else choose_nothing(pool)
        self.checkpoint.save_record(record)
        self.records[pool.index] = record
        if not pool.quota:
            self.progress.advance(len(pool.rows), self._tokens(pool.rows))

    def _measured_choice(self, pool: CandidatePool, held: HeldGradients) -> PoolRecord:
        rows = [self.examples[i] for i in pool.rows]
        start = time.perf_counter()
        with memory_advice(), self.watch.time("gradients"):
            gram = self._gram(rows, held, tell_passes=pool.index == 0)
        seconds = time.perf_counter() - start
        with self.watch.time("selection"):
            record, usable = choose_among_usable(pool, gram, rows, self.config, seconds)
        settle(record.bad, self.config, self.progress)  # before anything is kept
        self.checkpoint.save_gram(pool.index, usable)
        return record

    def _gram(self, rows: Sequence[Example], held: HeldGradients, tell_passes: bool) -> Tensor:
        """Gram matrix of a pool's gradients; where a GPU's memory does not suffice, in smaller batches from now on."""
        lengths = [len(row.input_ids) for row in rows]
        memory = int(self.config.gradient_memory * GIB)
        told: set[int] = set()

        def report(batch: Sequence[int]) -> None:
            new = set(batch) - told
            told.update(new)
            self.progress.advance(len(new), sum(lengths[i] for i in new))

        while True:
            proxy = self.optimizer.proxy
            batches = proxy.batches(lengths)
            if tell_passes:
                self._tell_passes(batches, memory)
            try:
                return pool_gram(proxy.model, proxy.layers, rows, batches, memory, held, report)
            except torch.OutOfMemoryError as error:
                smaller = _with_smaller_batches(proxy, lengths)
                if smaller is None:
                    raise out_of_memory(ALONE_TOO_MUCH) from error
            torch.cuda.empty_cache()
            self.optimizer.proxy = smaller
            self.progress.note(f"out of memory: going on with {smaller.token_budget:,} tokens a pass")

    def _tell_passes(self, batches: Sequence[Sequence[int]], memory: int) -> None:
        proxy = self.optimizer.proxy
        passes = len(layer_groups(proxy.layers, rows_held(batches), memory, proxy.model.dtype))
        if passes > 1:
            self.progress.note(f"gradients need {passes} passes over each pool; raise --gradient-memory for fewer")
