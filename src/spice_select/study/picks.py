"""The subset of one cell and seed, from the shared evidence where the proxy stands still, by a full run where not."""

from collections.abc import Callable, Sequence

from spice_select.api import select
from spice_select.config import WITHOUT_GRADIENTS, WITHOUT_MODEL, RunConfig
from spice_select.pool.examples import PoolInput
from spice_select.schedule.choose import choose, choose_nothing
from spice_select.schedule.ordered import Losses, ranked
from spice_select.schedule.pools import cut_cycles, cut_pools
from spice_select.study.config import EQUAL_TOKENS, StudyConfig
from spice_select.study.evidence import Evidence

Subset = list[int]
"""Example indices in the pool's order."""


def subset_of(study: StudyConfig, inputs: Sequence[PoolInput], evidence: Evidence, cell: str, seed: int) -> Subset:
    """Rows of `cell` at `seed`; a cell with equal tokens first needs the subset of the cell it follows."""
    config = study.run_config(cell, seed)
    other = study.cells[cell].get(EQUAL_TOKENS)
    if other is not None:
        chosen = subset_of(study, inputs, evidence, other, seed)
        tokens = sum(evidence.pool.examples[row].trained_tokens for row in chosen)
        config = config.model_copy(update={"budget": f"{tokens}tok"})
    proxy_seed = seed % study.gradient_seeds
    if config.method in WITHOUT_GRADIENTS:
        return _ranked(config, evidence, proxy_seed)
    budget = config.budget_rows(len(evidence.pool.examples))
    pools = cut_pools(len(evidence.pool.examples), config.pool_size, budget, seed)
    if len(cut_cycles(pools, config.update_every)) > 1:
        return sorted(select(inputs, config, progress=evidence.progress).indices)
    gram = evidence.gram(config.model_copy(update={"seed": proxy_seed}))
    lengths = [example.trained_tokens for example in evidence.pool.examples]
    subset: Subset = []
    for pool in pools:
        if pool.quota:
            part = gram[pool.rows][:, pool.rows]
            record = choose(pool, part, [lengths[row] for row in pool.rows], config, 0.0)
        else:
            record = choose_nothing(pool)
        subset += record.picked_rows
    return sorted(subset)


def _ranked(config: RunConfig, evidence: Evidence, proxy_seed: int) -> Subset:
    def losses() -> Losses:
        return evidence.losses(config.model_copy(update={"seed": proxy_seed}))

    known: Callable[[], Losses | None] = (lambda: None) if config.method in WITHOUT_MODEL else losses
    return sorted(ranked(evidence.pool.examples, config, known()))
