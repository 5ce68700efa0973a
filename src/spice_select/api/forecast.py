"""`forecast`, `forecast_gradients`, `forecast_finetune`: time, memory and disk space of the real call (`--dry-run`).

A few batches, from the longest rows to the shortest, are computed as the real call computes them; time is assumed to
grow with their padded tokens. Nothing is written.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch

from spice_select.amounts import GIB
from spice_select.api.gradients import prepare_store
from spice_select.api.measuring import TIMED, available_memory, measure, peak_memory, spread
from spice_select.api.select import plan
from spice_select.config import RunConfig
from spice_select.constants import Lead
from spice_select.files.directory import PAGE_BYTES
from spice_select.gradients.gram import HeldGradients, layer_groups, pool_gram, rows_held
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.gradients.preconditioned import FIRST, SECOND
from spice_select.option_values import NOUNS, TRAINING, WITHOUT_GRADIENTS, WITHOUT_MODEL
from spice_select.pool.examples import Example, PoolInput
from spice_select.pool.sources import as_list
from spice_select.prepared import Prepared, merged_config, prepare
from spice_select.progress import NoProgress, Progress
from spice_select.proxy.lora import Proxy, merge
from spice_select.proxy.update import ProxyOptimizer
from spice_select.schedule.batching import with_batch_tokens
from spice_select.schedule.kinds import kind_of
from spice_select.schedule.lead import warm_up_size
from spice_select.schedule.pools import cut_cycles, cut_pools
from spice_select.schedule.ranking import passes_over_rows, two_losses
from spice_select.store.layout import shard_rows
from spice_select.training.callback import Steps
from spice_select.training.data import Data
from spice_select.training.plan import BatchSplit, TrainingOptions, plan_training, read_rows
from spice_select.training.trainer import OUT_OF_MEMORY, load_adapted, train

MEMORY_REMEDY = "Lower --batch-tokens or --gradient-memory, or use a smaller --model."
STATE_BYTES = 3 * 4  # of a trained parameter: the float32 value and AdamW's two moments


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a call needs."""

    rows: int  # usable rows of the pool
    tokens: int  # of these rows
    trained_tokens: int  # targets of the loss among them
    seconds: dict[str, float]  # by stage; empty where no model runs
    memory: int | None  # peak in bytes, of the process or, on a GPU, of its tensors; None where no model runs
    available: int  # bytes of memory that the device can provide
    disk: int  # bytes of the output directory, at most
    remedy: str = MEMORY_REMEDY  # what to change where memory is short

    def lines(self) -> list[str]:
        """The forecast in one line, and a warning where memory is short."""
        disk = f"up to {self.disk / 1e6:,.1f} MB on disk"
        if self.memory is None:
            return [f"forecast: {disk}"]
        times = {stage: timedelta(seconds=round(spent)) for stage, spent in self.seconds.items() if spent >= 1}
        stages = f" ({', '.join(f'{stage} {spent}' for stage, spent in times.items())})" if len(times) > 1 else ""
        total = timedelta(seconds=round(sum(self.seconds.values())))
        lines = [f"forecast: about {total}{stages}, {self.memory / GIB:.1f} GiB of memory, {disk}"]
        if self.memory > self.available:
            lines.append(f"Only {self.available / GIB:.1f} GiB of memory are available. {self.remedy}")
        return lines


def forecast(
    pools: PoolInput | Sequence[PoolInput],
    config: RunConfig | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Forecast:
    """What `select` needs for the same arguments, in one process. Raises as it before it chooses, `output` apart."""
    reporter = progress or NoProgress()
    prepared = prepare(as_list(pools), merged_config(config, options), reporter)
    budget, _ = plan(prepared, reporter)
    config, disk = prepared.config, _results_bytes(prepared, budget)
    if config.method in WITHOUT_MODEL:
        return _forecast(prepared, {}, None, disk)
    with explain_out_of_memory(MEMORY_REMEDY):
        if config.method in TRAINING:
            return _forecast_lead(prepared, disk, budget, reporter)
        proxy = _merged_proxy(prepared, reporter)
        if config.method in WITHOUT_GRADIENTS:
            passes = passes_over_rows(prepared, proxy, reporter)
            rows = range(len(passes.rows))
            per_token, tokens, memory = measure(passes.rows, passes.lengths, proxy, [rows], passes.run)
            return _forecast(prepared, {passes.stage: passes.times * per_token * tokens}, memory, disk)
        if config.candidates == "all":
            return _forecast_store(prepared, proxy, disk, warm_up=True)
        return _forecast_candidate_pools(prepared, proxy, disk, budget)


def forecast_gradients(
    pools: PoolInput | Sequence[PoolInput],
    config: RunConfig | None = None,
    *,
    proxy_of: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Forecast:
    """What `compute_gradients` needs for a new store, in one process. Raises as it, `output` apart."""
    reporter = progress or NoProgress()
    prepared, _ = prepare_store(pools, config, proxy_of, "the pool", reporter, options)
    with explain_out_of_memory(MEMORY_REMEDY):
        proxy = _merged_proxy(prepared, reporter)
        return _forecast_store(prepared, proxy, _text_bytes(prepared), warm_up=proxy_of is None)


def forecast_finetune(data: Data, *, progress: Progress | None = None, **options: Any) -> Forecast:
    """What `finetune` needs for the same arguments, by a few optimizer steps. Raises as `finetune`."""
    plan, reporter = plan_training(data, TrainingOptions(**options)), progress or NoProgress()
    tokenizer, rows = read_rows(plan, reporter)
    adapted = load_adapted(plan, reporter)
    adapted.to(plan.device)
    reporter.note("timing a few steps")
    lengths, one_pass = rows.lengths, plan.recipe.model_copy(update={"epochs": 1.0})
    longest_first = sorted(range(rows.rows), key=lambda row: -lengths[row])

    def seconds_of(members: Sequence[int], split: BatchSplit) -> float:
        timed = replace(plan, recipe=one_pass, split=split)
        return train(adapted, tokenizer, rows.dataset.select(members), timed, Steps(NoProgress(), 0, 0))

    width = plan.split.rows_at_once
    seconds_of(longest_first[:width], BatchSplit(width, 1))  # allocates memory and compiles kernels
    sample = spread(longest_first, TIMED * plan.recipe.batch_size)
    seconds = seconds_of(sample, plan.split) * plan.recipe.epochs * rows.tokens / sum(lengths[row] for row in sample)
    parameters = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    memory = peak_memory(plan.device) + STATE_BYTES * parameters
    counts, disk = (rows.rows, rows.tokens, rows.trained_tokens), 4 * parameters + 100 * len(tokenizer)
    return Forecast(*counts, {"fine-tuning": seconds}, memory, available_memory(plan.device), disk, OUT_OF_MEMORY)


def _merged_proxy(prepared: Prepared, progress: Progress) -> Proxy:
    proxy = _sized_proxy(prepared, progress)
    merge(proxy)
    return proxy


def _sized_proxy(prepared: Prepared, progress: Progress) -> Proxy:
    proxy = with_batch_tokens(prepared.proxy(progress), prepared.config, prepared.pool.examples, None)
    progress.note("timing a few batches; nothing is written")
    return proxy


def _forecast_lead(prepared: Prepared, disk: int, budget: int, progress: Progress) -> Forecast:
    """Three forward passes, the warm-up, and rounds in which each row of the budget is taken as often as it may be."""
    config, pool, constants = prepared.config, prepared.pool, Lead.model_validate(prepared.config.constants)
    proxy, rows = _sized_proxy(prepared, progress), len(pool.examples)
    optimizer = ProxyOptimizer(proxy, config.learning_rate, config.lr_warmup_steps)
    everything = pool.examples, pool.examples.tokens.tolist(), proxy, [range(rows)]

    def step(members: Sequence[Example]) -> None:
        optimizer.train_on(members, len(members), on_bad=lambda _: None)

    forward, tokens, _ = measure(*everything, lambda members: two_losses(members, proxy))
    per_token, _, memory = measure(*everything, step)
    warm_up = warm_up_size(constants, rows) * constants.warmup_passes
    wanted = budget if config.budget_tokens is None else rows * config.budget_tokens // pool.trained_tokens
    progress.note(
        f"3 forward passes over the pool, {warm_up:,} rows trained on in the warm-up, then rounds; the "
        f"forecast assumes that each of about {wanted:,} rows is trained on and measured {constants.most_uses} times"
    )
    uses = wanted * constants.most_uses
    mean = pool.total_tokens / rows
    seconds = {
        "losses": forward * (1.5 * tokens + uses * mean),
        "proxy training": per_token * mean * (warm_up + uses),
    }
    return _forecast(prepared, seconds, memory, disk)


def _forecast_store(prepared: Prepared, proxy: Proxy, disk: int, *, warm_up: bool) -> Forecast:
    config, count = prepared.config, len(prepared.pool.examples)
    moments = {  # any: they take the same time
        f"{key}.{name}": torch.zeros_like(factor.weight)
        for key in (FIRST, SECOND)
        for name, factor in proxy.factors.items()
        if config.features == "preconditioned"
    }
    dim, compute = kind_of(proxy, config, moments)
    size = shard_rows(proxy.device, count, config.dim)
    shards = [range(start, min(start + size, count)) for start in range(0, count, size)]

    def project(members: Sequence[Example]) -> None:
        compute(members, [range(len(members))])

    rows = prepared.pool.examples
    per_token, tokens, memory = measure(rows, rows.tokens.tolist(), proxy, shards, project)
    warm_up = warm_up and config.features != "states"
    trained = config.warmup_steps * config.update_batch_size * prepared.pool.total_tokens / count if warm_up else 0.0
    target = _target_size(prepared)
    disk += 2 * dim * (count + target.rows) + 4 * proxy.parameters * (1 + len(prepared.targets))
    disk += 2 * 4 * proxy.parameters if config.features == "preconditioned" else 0  # the moments
    seconds = {
        f"{NOUNS[config.features]}s": per_token * (tokens + target.tokens),
        "proxy training": per_token * trained,
    }
    shard = 3 * 4 * dim * size  # features of its batches, the table they form, and its bytes
    return _forecast(prepared, seconds, memory + shard, disk)


def _forecast_candidate_pools(prepared: Prepared, proxy: Proxy, disk: int, budget: int) -> Forecast:
    """Gradients of all candidate pools, and the training of the proxy between them."""
    config, lengths = prepared.config, prepared.pool.examples.tokens
    assert isinstance(config.candidates, int)
    pools = cut_pools(len(lengths), config.candidates, budget, config.seed)
    used = [pool for pool in pools if pool.quota]

    def multiply(members: Sequence[Example]) -> None:
        pool_gram(proxy.model, proxy.layers, members, [range(len(members))], 0, HeldGradients())

    members_of = [pool.rows for pool in used]
    per_token, tokens, memory = measure(prepared.pool.examples, lengths.tolist(), proxy, members_of, multiply)
    room, dtype = int(config.gradient_memory * GIB), proxy.model.dtype
    target = _target_size(prepared)
    held = rows_held(proxy.batches(lengths[used[0].rows].tolist())) + target.rows
    tokens += target.tokens * len(used)  # its gradients are computed with those of each pool
    passes = len(layer_groups(proxy.layers, held, room, dtype))
    unused = sum(pool.quota for pool in cut_cycles(pools, config.update_every)[-1])  # the proxy trains on no last picks
    rows = config.warmup_steps * config.update_batch_size + budget - unused
    trained = rows * prepared.pool.total_tokens / len(lengths)
    seconds = {"gradients": per_token * tokens * passes, "proxy training": per_token * trained}
    state = STATE_BYTES * proxy.parameters
    waiting = min(room, held * proxy.parameters * dtype.itemsize)
    grams = sum(8 * (len(pool.rows) + target.rows) ** 2 for pool in used)
    return _forecast(prepared, seconds, memory + waiting + state, disk + 2 * state + grams)


class _Size(NamedTuple):
    rows: int
    tokens: int


def _target_size(prepared: Prepared) -> _Size:
    pools = prepared.targets
    return _Size(sum(len(pool.examples) for pool in pools), sum(pool.total_tokens for pool in pools))


def _forecast(prepared: Prepared, seconds: dict[str, float], memory: int | None, disk: int) -> Forecast:
    pool, available = prepared.pool, available_memory(prepared.device)
    return Forecast(len(pool.examples), pool.total_tokens, pool.trained_tokens, seconds, memory, available, disk)


def _text_bytes(prepared: Prepared) -> int:
    """Size of all usable rows as JSON, from some of them."""
    examples = prepared.pool.examples
    sample = spread(range(len(examples)), 200)
    return sum(len(json.dumps(examples[row].row.data, default=str)) for row in sample) * len(examples) // len(sample)


def _results_bytes(prepared: Prepared, budget: int) -> int:
    """The texts in the checkpoint, the chosen rows twice (as read, and for trainers), tables and the report."""
    pool, texts = prepared.pool, _text_bytes(prepared)
    texts += sum(_text_bytes(replace(prepared, pool=target)) for target in prepared.targets)
    wanted = prepared.config.budget_tokens
    share = budget / len(pool.examples) if wanted is None else wanted / max(1, pool.trained_tokens)
    lines = 300 * len(pool.examples)  # of scores.parquet, and the checkpoint's record of each row
    return int((1 + 2 * share) * texts) + lines + PAGE_BYTES
