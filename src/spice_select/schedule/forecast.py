"""What a run or a gradient store would take, from a few batches timed as they would be computed."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spice_select.amounts import GIB
from spice_select.config import WITHOUT_GRADIENTS, WITHOUT_MODEL, RunConfig
from spice_select.costs.forecast import Forecast
from spice_select.costs.memory import obtainable_bytes
from spice_select.costs.speed import measure_passes
from spice_select.files.directory import PAGE_BYTES
from spice_select.gradients.capture import captured
from spice_select.gradients.gram import inner_products, layer_groups, most_held_bytes, rows_held
from spice_select.gradients.loss import collate, response_losses
from spice_select.gradients.projection import Projection, project_rows
from spice_select.pool.examples import Example
from spice_select.pool.types import Chat
from spice_select.prepared import Prepared
from spice_select.progress import Progress
from spice_select.proxy.lora import Proxy, merge, merged
from spice_select.schedule.batching import with_token_budget
from spice_select.schedule.pools import CandidatePool, cut_pools, rows_in_a_pool, warm_up_rows
from spice_select.schedule.ranking import two_losses
from spice_select.store.layout import shard_rows

WORTH = 0.05
"""Part of a run's time that measuring may take; a shorter run tells its time only when asked by `--dry-run`."""

Rows = Sequence[int]


def forecast_pools(
    examples: Sequence[Example],
    pools: Sequence[CandidatePool],
    config: RunConfig,
    proxy: Proxy,
    processes: int = 1,
    worth: float = math.inf,
    held_as: torch.dtype | None = None,
) -> Forecast:
    """Gradients of `pools` and the proxy's training between them.

    Args:
        examples: all rows.
        pools: those still to be done.
        config: of the run.
        proxy: as its gradients will be computed: with merged layers.
        processes: that share the pools out.
        worth: measure only if that takes no larger part of the work than this.
        held_as: type of gradients that wait between batches, by default the model's.

    """
    memory, kept = int(config.gradient_memory * GIB), held_as or proxy.model.dtype
    cuts = [_batches(examples, pool.rows, proxy) for pool in pools if pool.quota]
    batches = [batch for cut in cuts for batch in all_passes(cut, proxy, memory, kept)]

    def run(batch: Rows) -> None:
        def square(_: str, gradients: Tensor) -> None:
            inner_products(gradients)

        with captured(proxy.layers, square):
            response_losses(proxy.model, collate([examples[i] for i in batch], proxy.device)).sum().backward()

    measured = measure_passes(proxy.model, examples, batches, run, worth)
    state = 4 * 3 * proxy.parameters  # factors and AdamW's moments, in float32
    saved = 2 if _last_cycle(pools, config) else 1  # an update's state is written before the last one's is removed
    grams = sum(8 * len(pool.rows) ** 2 for pool in pools if pool.quota)
    disk = _rows_on_disk(examples, config) + _text_bytes(examples) + saved * state + grams
    if measured is None:
        return _forecast(examples, None, None, proxy, disk)
    tokens = sum(len(examples[i].input_ids) for batch in batches for i in batch)
    training = _training_tokens(examples, pools, config) / tokens  # at the speed of gradients
    seconds = {"gradients": measured.seconds / processes, "proxy training": measured.seconds * training / processes}
    held = max(most_held_bytes(proxy.layers, cut, memory, kept) for cut in cuts)
    return _forecast(examples, seconds, measured.memory + held + state, proxy, disk)


def all_passes(batches: Sequence[Rows], proxy: Proxy, memory_bytes: int, held_as: torch.dtype) -> list[Rows]:
    """`batches` of one pool once for each group of layers whose gradients fit `memory_bytes` while they wait."""
    groups = layer_groups(proxy.layers, rows_held(batches), memory_bytes, held_as)
    return [batch for _ in groups for batch in batches]


def forecast_store(
    examples: Sequence[Example],
    rows: Rows,
    config: RunConfig,
    proxy: Proxy,
    projection: Projection,
    processes: int = 1,
    worth: float = math.inf,
) -> Forecast:
    """Projected gradients of `rows`, those still to be done; otherwise as `forecast_pools`."""
    size = shard_rows(proxy.device, len(examples), config.dim)
    shards = [rows[start : start + size] for start in range(0, len(rows), size)]
    batches = [batch for shard in shards for batch in _batches(examples, shard, proxy)]

    def run(batch: Rows) -> None:
        members = [examples[i] for i in batch]
        project_rows(proxy.model, proxy.layers, members, [range(len(members))], projection)

    measured = measure_passes(proxy.model, examples, batches, run, worth)
    disk = 2 * config.dim * len(examples) + _text_bytes(examples)
    if measured is None:
        return _forecast(examples, None, None, proxy, disk)
    turns = math.ceil(len(shards) / processes)  # a process takes whole shards
    seconds = {"gradients": measured.seconds * turns / max(1, len(shards))}
    shard = 3 * 4 * config.dim * min(size, len(rows))  # its batches' features, their table, its bytes
    return _forecast(examples, seconds, measured.memory + shard, proxy, disk)


def forecast_run(prepared: Prepared, budget: int, progress: Progress) -> Forecast:
    """All of a run that has not begun, warm-up included."""
    examples, config = prepared.pool.examples, prepared.config
    if config.method in WITHOUT_MODEL:
        return _forecast(examples, {}, None, None, _rows_on_disk(examples, config) + _text_bytes(examples))
    if config.pool_size == "all" and config.method not in WITHOUT_GRADIENTS:
        found = forecast_new_store(prepared, progress)
        return replace(found, disk=found.disk + _rows_on_disk(examples, config))
    proxy = sized_proxy(prepared, progress)
    if config.method in WITHOUT_GRADIENTS:
        return _forecast_losses(examples, config, proxy)
    pools = cut_pools(len(examples), rows_in_a_pool(config, len(examples)), budget, config.seed)
    with merged(proxy):
        found = forecast_pools(examples, pools, config, proxy)
    return with_warm_up(found, examples, config)


def forecast_new_store(prepared: Prepared, progress: Progress, warm_up: bool = True) -> Forecast:
    """A whole gradient store of the pool; without `warm_up` its proxy is another store's."""
    proxy = sized_proxy(prepared, progress)
    merge(proxy)
    examples = prepared.pool.examples
    config = prepared.config
    projection = Projection(proxy.factors, config.dim, config.seed)
    found = forecast_store(examples, range(len(examples)), config, proxy, projection)
    return with_warm_up(found, examples, config) if warm_up else found


def sized_proxy(prepared: Prepared, progress: Progress) -> Proxy:
    """A new proxy with its token budget, for what is timed next."""
    examples = prepared.pool.examples
    proxy = with_token_budget(prepared.proxy(progress), prepared.config, examples, None)
    progress.note("timing a few batches")
    return proxy


def with_warm_up(found: Forecast, examples: Sequence[Example], config: RunConfig) -> Forecast:
    """`found` with the proxy's first training, at the speed of the gradients."""
    if not found.seconds:
        return found
    rows = warm_up_rows(len(examples), config.warmup_steps * config.update_batch_size, config.seed)
    share = sum(len(examples[i].input_ids) for i in rows) / found.tokens
    training = found.seconds.get("proxy training", 0.0) + found.seconds["gradients"] * share
    return replace(found, seconds={**found.seconds, "proxy training": training})


def _forecast_losses(examples: Sequence[Example], config: RunConfig, proxy: Proxy) -> Forecast:
    batches = _batches(examples, range(len(examples)), proxy)

    def run(batch: Rows) -> None:
        two_losses([examples[i] for i in batch], proxy)

    measured = measure_passes(proxy.model, examples, batches, run)
    assert measured is not None  # a pool has rows
    disk = _rows_on_disk(examples, config) + _text_bytes(examples)
    return _forecast(examples, {"losses": measured.seconds}, measured.memory, proxy, disk)


def _forecast(
    examples: Sequence[Example], seconds: dict[str, float] | None, memory: int | None, proxy: Proxy | None, disk: int
) -> Forecast:
    tokens = sum(len(row.input_ids) for row in examples)
    trained = sum(row.trained_tokens for row in examples)
    obtainable = None if proxy is None else obtainable_bytes(proxy.device)
    return Forecast(len(examples), tokens, trained, seconds, memory, obtainable, disk)


def _batches(examples: Sequence[Example], rows: Rows, proxy: Proxy) -> list[list[int]]:
    lengths = [len(examples[i].input_ids) for i in rows]
    return [[rows[place] for place in batch] for batch in proxy.batches(lengths)]


def _cycle(pool: CandidatePool, config: RunConfig) -> int:
    return 0 if config.update_every == "never" else pool.index // config.update_every


def _last_cycle(pools: Sequence[CandidatePool], config: RunConfig) -> int:
    return _cycle(pools[-1], config)


def _training_tokens(examples: Sequence[Example], pools: Sequence[CandidatePool], config: RunConfig) -> float:
    """All picks but those of the last cycle, at the pool's mean length."""
    last = _last_cycle(pools, config)
    picks = sum(pool.quota for pool in pools if _cycle(pool, config) < last)
    mean = sum(len(row.input_ids) for row in examples) / len(examples)
    return picks * mean


def _text_bytes(examples: Sequence[Example]) -> int:
    return text_bytes(examples[:: max(1, len(examples) // 200)], len(examples))


def _rows_on_disk(examples: Sequence[Example], config: RunConfig) -> int:
    tokens = sum(row.trained_tokens for row in examples)
    return rows_on_disk(len(examples), tokens, _text_bytes(examples), config)


def text_bytes(sample: Sequence[Chat], rows: int) -> int:
    """About what `rows` rows take as JSON, from some of them."""
    mean = sum(len(json.dumps(chat.row.data, default=str)) for chat in sample) / len(sample)
    return int(mean * rows)


def rows_on_disk(rows: int, trained_tokens: int, texts: int, config: RunConfig) -> int:
    """Chosen rows twice (as they were, and for trainers), what is known of every row twice, and the report's page.

    Args:
        rows: of the pool.
        trained_tokens: of all of them.
        texts: bytes of all of them as JSON.
        config: its budget.

    """
    share = (
        config.budget_tokens / max(1, trained_tokens)
        if config.budget_tokens is not None
        else config.budget_rows(rows, trained_tokens) / rows
    )
    return int(2 * share * texts) + 2 * 150 * rows + PAGE_BYTES
