"""The paper's procedure: choose inside pools of m rows, and train the proxy on the picks after every T pools.

    cycle 0: [warm-up]          pool 0 ... pool T-1
    cycle 1: train on picks     pool T ... pool 2T-1
    ...
Within a cycle the proxy does not change, so its pools depend only on the proxy at the cycle's start: several processes
share the pools and train on the picks together. A checkpoint is written after every pool and every update; a resumed
run continues from the newest state and returns the identical subset.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from spice_select.amounts import GIB
from spice_select.choices import PoolRecord
from spice_select.config import RunConfig
from spice_select.distributed.process_group import all_gather_texts
from spice_select.errors import OutputError
from spice_select.gradients.gram import HeldGradients, layer_groups, pool_gram, rows_held
from spice_select.gradients.memory import explain_out_of_memory, out_of_memory
from spice_select.information.ranks import ALONE, Ranks
from spice_select.pool.examples import Example
from spice_select.pool.lazy_rows import Rows
from spice_select.progress import Progress
from spice_select.proxy.lora import Proxy, merged
from spice_select.proxy.update import ProxyOptimizer
from spice_select.schedule.bad_rows import bad_rows, refuse_empty_choice, stop_or_report
from spice_select.schedule.batching import with_batch_tokens
from spice_select.schedule.checkpoint import Checkpoint
from spice_select.schedule.pick_in_pool import pick_among_usable
from spice_select.schedule.pools import CandidatePool, cut_cycles, cut_pools, rows_in_a_pool
from spice_select.schedule.proxy_training import TRAINING_REMEDY, update, warm_up
from spice_select.schedule.targets import leaks_among, refuse_only_leaks, report_leaks
from spice_select.stopwatch import Stopwatch

ROW_TOO_LARGE = "A single row does not fit: lower --max-length, or choose another --model."


def choose_in_candidate_pools(
    examples: Rows[Example],
    budget: int,
    config: RunConfig,
    proxy: Proxy,
    checkpoint: Checkpoint,
    progress: Progress,
    watch: Stopwatch,
    ranks: Ranks = ALONE,
    target: Sequence[Example] = (),
    weights: Tensor | None = None,
) -> list[PoolRecord]:
    """Choose `budget` of `examples` pool by pool, training `proxy` in between; returns one record per pool, in order.

    The gradients of the `target` rows [t], with their `weights`, are computed with those of each pool. With a stop
    ratio the budget is a cap. Finished pools found in `checkpoint` are not computed again. Several processes work in
    one checkpoint directory and return the same records. Raises `ModelError` if a loss or gradient is not finite and
    `config` says to stop there, or no row can be used.
    """
    pools = cut_pools(len(examples), rows_in_a_pool(config, len(examples)), budget, config.seed)
    records = {record.pool: record for record in _gather(checkpoint.records().values(), ranks)[0]}
    longest = max((len(row.input_ids) for row in target), default=0)
    long_rows = target if longest > int(examples.tokens.max(initial=0)) else examples
    sized = with_batch_tokens(proxy, config, long_rows, checkpoint.directory)
    optimizer = ProxyOptimizer(sized, config.learning_rate, config.lr_warmup_steps)
    run = _Run(examples, config, optimizer, checkpoint, progress, watch, ranks, records, target, weights)
    run.report_start(len(pools))
    cycles = cut_cycles(pools, config.update_every)
    for number, cycle in enumerate(cycles):
        run.choose_in_cycle(number, cycle, last=number == len(cycles) - 1)
    ordered = [records[pool.index] for pool in pools]
    refuse_only_leaks(
        sum(len(record.leaks) for record in ordered), sum(len(record.rows) for record in ordered if record.quota)
    )
    refuse_empty_choice(ordered)
    return ordered


def _gather(own: Iterable[PoolRecord], ranks: Ranks) -> list[list[PoolRecord]]:
    texts = all_gather_texts(ranks, json.dumps([record.to_json() for record in own]))
    return [[PoolRecord.from_json(record) for record in json.loads(text)] for text in texts]


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
    target: Sequence[Example]
    weights: Tensor | None
    proxy_at: int | None = None  # the cycle at whose start the proxy in memory stands
    unused_picks: list[int] = field(default_factory=list[int])  # picks since the last update
    held: HeldGradients = field(default_factory=HeldGradients)

    def report_start(self, pools: int) -> None:
        """Report how much there is to do, and how much of it an earlier run did."""
        self.progress.begin("choosing", len(self.examples), self._tokens(range(len(self.examples))))
        if self.records:
            done = [row for record in self.records.values() for row in record.all_rows]
            self.progress.resume(len(done), self._tokens(done))
            self.progress.note(f"resuming: {len(self.records)} of {pools} pools are done")

    def _tokens(self, rows: Iterable[int]) -> int:
        return sum(len(self.examples[row].input_ids) for row in rows)

    def choose_in_cycle(self, cycle: int, pools: list[CandidatePool], *, last: bool) -> None:
        """Bring the proxy to the cycle's start if that is needed, and choose in the pools not yet done."""
        saved = self._saved_proxy()
        missing = [pool for pool in pools if pool.index not in self.records]
        if missing and saved is not None and saved > cycle:
            raise OutputError(
                f"{self.checkpoint.directory}: pool {missing[0].index} is missing, but the proxy was trained further.\n"
                "Start again with --overwrite."
            )
        if missing or (not last and (saved is None or saved <= cycle)):
            self._bring_proxy_to(cycle, saved)
        own = missing[self.ranks.rank :: self.ranks.size]
        if own:
            with merged(self.optimizer.proxy):
                for pool in own:
                    self._choose_in_pool(pool)
            self.held = HeldGradients()  # free for the proxy's training
        self._exchange([pool.index for pool in own])
        self.unused_picks = [row for pool in pools for row in self.records[pool.index].picked_rows]

    def _saved_proxy(self) -> int | None:
        """The cycle whose starting proxy is saved, as the first process sees it."""
        saved = self.checkpoint.proxy_cycle()
        found = int(self.ranks.broadcast(torch.tensor(-1 if saved is None else saved), 0))
        return None if found < 0 else found

    def _exchange(self, own: list[int]) -> None:
        for rank, records in enumerate(_gather((self.records[index] for index in own), self.ranks)):
            if rank != self.ranks.rank:
                for record in records:
                    self.records[record.pool] = record
                    self.progress.advance(len(record.all_rows), self._tokens(record.all_rows))

    def _bring_proxy_to(self, cycle: int, saved: int | None) -> None:
        if self.proxy_at == cycle:
            return
        if saved is not None and self.proxy_at != saved:
            self.optimizer.restore(*self.checkpoint.load_proxy(saved))
        if saved != cycle:
            with self.watch.time("proxy training"):
                self._train(cycle)
            if self.ranks.rank == 0:
                self.checkpoint.save_proxy(cycle, self.optimizer.state(), self.optimizer.steps)
        self.proxy_at = cycle

    def _train(self, cycle: int) -> None:
        if cycle == 0:
            warm_up(self.optimizer, self.examples, self.config, self.progress, self.ranks)
        else:
            picks = self.unused_picks
            update(self.optimizer, self.examples, picks, cycle, self.config, self.progress, self.ranks)

    def _choose_in_pool(self, pool: CandidatePool) -> None:
        """Choose in one pool and save its record; a pool without a quota needs no gradients."""
        if pool.quota:
            rows, start = [self.examples[i] for i in pool.rows], time.perf_counter()
            with explain_out_of_memory(TRAINING_REMEDY), self.watch.time("gradients"):
                gram, losses = self._gram(rows, report_passes=pool.index == 0)
            seconds = time.perf_counter() - start
            nothing = bad_rows(self.target, gram.diagonal()[len(rows) :])
            stop_or_report(nothing, self.config, self.progress, "of the target count for nothing")
            sought = bool(self.target) and not self.config.keep_target_rows
            leaks = leaks_among(rows, self.target) if sought else []
            with self.watch.time("selection"):
                record, usable = pick_among_usable(
                    pool, gram, rows, self.config, seconds, self.target, self.weights, losses, leaks
                )
            stop_or_report(record.bad, self.config, self.progress)  # before anything is kept
            report_leaks(record.leaks, self.config, self.progress)
            self.checkpoint.save_gram(pool.index, usable)
        else:
            record = PoolRecord(pool.index, pool.rows, [], 0, False, 0.0, None)
            self.progress.advance(len(pool.rows), self._tokens(pool.rows))
        self.checkpoint.save_record(record)
        self.records[pool.index] = record

    def _gram(self, pool: Sequence[Example], *, report_passes: bool) -> tuple[Tensor, Tensor]:
        """Gram matrix [m + t, m + t] float64 and losses [m + t] of the pool's rows and the target's.

        Batches shrink when a GPU's memory does not suffice. Raises `ModelError` if a single row exceeds it.
        """
        rows = [*pool, *self.target]
        lengths = [len(row.input_ids) for row in rows]
        memory = int(self.config.gradient_memory * GIB)
        counted: set[int] = set()  # rows whose last pass was before memory ran out are not counted twice

        while True:
            proxy, passed = self.optimizer.proxy, Counter[int]()
            batches = proxy.batches(lengths)
            passes = len(layer_groups(proxy.layers, rows_held(batches), memory, proxy.model.dtype))
            if report_passes and passes > 1:
                needed = f"gradients need {passes} passes over each pool"
                self.progress.note(f"{needed}; a larger --gradient-memory needs fewer")

            def advance(batch: Sequence[int], passed: Counter[int] = passed, passes: int = passes) -> None:
                passed.update(batch)
                done = {place for place in batch if place < len(pool) and passed[place] == passes} - counted
                counted.update(done)
                self.progress.advance(len(done), sum(lengths[i] for i in done))

            try:
                return pool_gram(proxy.model, proxy.layers, rows, batches, memory, self.held, advance)
            except torch.OutOfMemoryError as error:
                smaller = with_smaller_batches(proxy, lengths)
                if smaller is None:
                    raise out_of_memory(ROW_TOO_LARGE) from error
            torch.cuda.empty_cache()
            self.optimizer.proxy = smaller
            self.progress.note(f"out of memory: continuing with {smaller.batch_tokens:,} tokens per pass")


def with_smaller_batches(proxy: Proxy, lengths: Sequence[int]) -> Proxy | None:
    """`proxy` with its token budget halved until the batches change; None if every batch is already a single row."""
    before, smaller = proxy.batches(lengths), proxy
    if all(len(batch) == 1 for batch in before):
        return None
    while smaller.batches(lengths) == before:
        smaller = replace(smaller, batch_tokens=max(1, smaller.batch_tokens // 2))
    return smaller
