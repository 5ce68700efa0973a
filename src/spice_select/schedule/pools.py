"""The cut of the examples into candidate pools and the share of the budget each pool gets (paper section 4, step 1)."""

from dataclasses import dataclass

import numpy as np

from spice_select.config import RunConfig


@dataclass(frozen=True, slots=True)
class CandidatePool:
    """One candidate pool: `rows` are example indices in shuffled order, `quota` the picks it owes to the budget."""

    index: int
    rows: list[int]
    quota: int


def rows_in_a_pool(config: RunConfig, examples: int) -> int:
    """Rows of a candidate pool; candidates all is a single one."""
    assert config.candidates != "auto", "it is decided where the pool is read"
    return max(1, examples) if config.candidates == "all" else config.candidates


def cut_pools(examples: int, candidates: int, budget: int, seed: int) -> list[CandidatePool]:
    """Shuffle by seed, cut into pools of `candidates` (the last may be smaller), and share out `budget` exactly.

    Pool p gets floor(budget * end_p / n) - floor(budget * start_p / n): proportional, and the shares add up to the
    budget whatever the last pool's size.
    """
    order = np.random.default_rng([seed, 0]).permutation(examples).tolist()
    pools: list[CandidatePool] = []
    for start in range(0, examples, candidates):
        end = min(start + candidates, examples)
        quota = budget * end // examples - budget * start // examples
        pools.append(CandidatePool(len(pools), order[start:end], quota))
    return pools


def cut_cycles(pools: list[CandidatePool], update_every: int | str) -> list[list[CandidatePool]]:
    """Runs of pools between two proxy updates; 'never' is a single one."""
    step = len(pools) if update_every == "never" else int(update_every)
    return [pools[start : start + step] for start in range(0, len(pools), max(1, step))]


def warm_up_rows(examples: int, wanted: int, seed: int) -> list[int]:
    """`wanted` random example indices; each example at most once more often than any other."""
    generator = np.random.default_rng([seed, 1])
    rows: list[int] = []
    while len(rows) < wanted and examples:
        rows += generator.permutation(examples).tolist()
    return rows[:wanted]


def update_order(picks: list[int], seed: int, cycle: int) -> list[int]:
    """The picks of one cycle in the seeded order in which the proxy trains on them."""
    return [picks[i] for i in np.random.default_rng([seed, 2, cycle]).permutation(len(picks))]
