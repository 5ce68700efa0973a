"""The rows of a cell whose proxy stays frozen, picked from a Gram matrix of the whole pool that such cells share."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spice_select.amounts import GIB
from spice_select.config import RunConfig
from spice_select.files.locks import make_once
from spice_select.files.records import damage_reported
from spice_select.gradients.gram import HeldGradients, layer_groups, pool_gram, rows_held
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.prepared import Prepared
from spice_select.progress import Progress
from spice_select.proxy.lora import merge
from spice_select.proxy.update import ProxyOptimizer
from spice_select.schedule.bad_rows import bad_rows, refuse_empty_choice, stop_or_report
from spice_select.schedule.batching import with_batch_tokens
from spice_select.schedule.identity import FEATURE_KEYS
from spice_select.schedule.pick_in_pool import pick_among_usable
from spice_select.schedule.pools import cut_cycles, cut_pools, rows_in_a_pool
from spice_select.schedule.proxy_training import warm_up
from spice_select.study.cost import Cost, adding_cost, cost_beside, cost_in, joined, measured
from spice_select.study.records import digest


def frozen_picks(
    prepared: Prepared, config: RunConfig, proxy_seed: int, directory: Path, progress: Progress
) -> tuple[list[int], Cost] | None:
    """Places of the rows that a method with gradients picks, in the pool's order, and the cost of gradients and choice.

    None where the proxy is updated between candidate pools.
    `select` cannot make these picks: its one seed sets both the proxy and the cut into candidate pools.
    """
    examples = prepared.pool.examples
    budget = config.budget_rows(len(examples), prepared.pool.trained_tokens)
    pools = cut_pools(len(examples), rows_in_a_pool(config, len(examples)), budget, config.seed)
    if len(cut_cycles(pools, config.update_every)) > 1:
        return None
    under_proxy = replace(prepared, config=config.model_copy(update={"seed": proxy_seed}))
    gram, shared = shared_gram(under_proxy, directory, progress)
    stop_or_report(bad_rows(examples, gram.diagonal()), config, progress)
    with measured() as spent:
        records = [
            pick_among_usable(pool, gram[pool.rows][:, pool.rows], [examples[row] for row in pool.rows], config, 0.0)[0]
            for pool in pools
            if pool.quota
        ]
        cost = joined([shared, spent()])
    refuse_empty_choice(records)
    return sorted(row for record in records for row in record.picked_rows), cost


def shared_gram(prepared: Prepared, directory: Path, progress: Progress) -> tuple[Tensor, Cost]:
    """Gram matrix [n, n] of unscaled gradients under `prepared`'s proxy, computed once, and what that cost.

    Marked as by `pool_gram`. A process that finds another at work on it waits.
    """
    config = prepared.config
    features = {key: getattr(config, key) for key in FEATURE_KEYS if key != "dim"}
    path = directory / f"gram-{config.seed}-{config.warmup_steps}-{digest(features)}.safetensors"

    def made() -> bytes:
        with adding_cost(path):
            return save({"gram": _computed(prepared, directory, progress)})

    content = make_once(path, made, lambda holder: progress.note(f"waiting for {path.name}, which {holder} makes"))
    with damage_reported(path, "Delete it and run the study again.", SafetensorError, KeyError):
        return load(content)["gram"], cost_in(cost_beside(path))


def _computed(prepared: Prepared, directory: Path, progress: Progress) -> Tensor:
    config, examples = prepared.config, prepared.pool.examples
    proxy = with_batch_tokens(prepared.proxy(progress), config, examples, directory)
    warm_up(ProxyOptimizer(proxy, config.learning_rate, config.lr_warmup_steps), examples, config, progress)
    merge(proxy)
    lengths = [len(example.input_ids) for example in examples]
    batches, memory = proxy.batches(lengths), int(config.gradient_memory * GIB)
    passes = len(layer_groups(proxy.layers, rows_held(batches), memory, proxy.model.dtype))
    if passes > 1:
        progress.note(f"gradients need {passes} passes over the pool; a larger gradient_memory needs fewer")
    progress.begin(f"gradients {config.seed}", passes * len(examples), passes * sum(lengths))

    def advance(batch: Sequence[int]) -> None:
        progress.advance(len(batch), sum(lengths[row] for row in batch))

    with explain_out_of_memory("Lower gradient_memory in the study's YAML and run the same command again."):
        return pool_gram(proxy.model, proxy.layers, examples, batches, memory, HeldGradients(), advance)[0]
