"""The subset of one cell and seed, from the shared evidence where the proxy stands still, by a full run where not."""

from collections.abc import Sequence

from spice_select.api.select import select
from spice_select.choices import PoolRecord
from spice_select.config import WITHOUT_GRADIENTS, WITHOUT_MODEL, RunConfig
from spice_select.pool.examples import Pool, PoolInput
from spice_select.schedule.bad_rows import refuse_empty_choice
from spice_select.schedule.pick_in_pool import empty_record, pick_among_usable
from spice_select.schedule.pools import CandidatePool, cut_cycles, cut_pools, rows_in_a_pool
from spice_select.schedule.ranking import ranked
from spice_select.study.evidence import Evidence

Subset = list[int]
"""Example indices in the pool's order."""


def subset_of(config: RunConfig, inputs: Sequence[PoolInput], evidence: Evidence, proxy_seed: int) -> Subset:
    """Rows that `config` chooses from `inputs`, which `evidence` has read; gradients are those of `proxy_seed`.

    A proxy that trains in between is seeded with `config.seed`, as a run's one seed is for both its proxy and its cut.
    """
    examples = evidence.pool.examples
    proxy = config.model_copy(update={"seed": proxy_seed})
    if config.method in WITHOUT_GRADIENTS:
        losses = None if config.method in WITHOUT_MODEL else evidence.losses(proxy)
        return sorted(ranked(examples, config, losses))
    pools = pools_of(config, evidence.pool)
    if proxy_trains(config, pools):
        return sorted(select(inputs, config, progress=evidence.progress).indices)
    gram = evidence.gram(proxy)
    records: list[PoolRecord] = []
    for pool in pools:
        if pool.quota:
            part = gram[pool.rows][:, pool.rows]
            records.append(pick_among_usable(pool, part, [examples[row] for row in pool.rows], config, 0.0)[0])
        else:
            records.append(empty_record(pool))
    refuse_empty_choice(records)
    return sorted(row for record in records for row in record.picked_rows)


def pools_of(config: RunConfig, pool: Pool) -> list[CandidatePool]:
    """The candidate pools of a method with gradients."""
    rows = len(pool.examples)
    return cut_pools(rows, rows_in_a_pool(config, rows), config.budget_rows(rows, pool.trained_tokens), config.seed)


def proxy_trains(config: RunConfig, pools: list[CandidatePool]) -> bool:
    """Whether the proxy is updated between pools; otherwise all are chosen in from the same gradients."""
    return len(cut_cycles(pools, config.update_every)) > 1
