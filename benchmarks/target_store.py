"""One choice for a target from a large gradient store with made-up features, measured; used by target_speed.py.

python benchmarks/target_store.py STORE RULE TARGETS PICKS [picks]     prints one line of JSON

STORE as greedy_store.py makes it; with `picks` no coverage is computed.
"""

import json
import sys
import time
from typing import cast

import torch
from memory import PeakMemory

from spice_select.information import RowLimit, Target, choose_for_target, moments_of, read_target, targeted
from spice_select.information import for_target as module
from spice_select.information.target import Rule
from spice_select.store.reading import GradientStore


def main() -> None:
    place, rule, targets, picks = sys.argv[1], cast(Rule, sys.argv[2]), *map(int, sys.argv[3:5])
    store = GradientStore.open(place)
    generator = torch.Generator().manual_seed(1)
    near = store.take(torch.randint(store.rows, (targets,), generator=generator))
    noise = torch.randn(near.shape, generator=generator, dtype=torch.float64) * near.std()
    rows = near + 0.5 * noise  # like some of the pool's, none equal
    spent: dict[str, float] = {}
    coverage = module._coverage

    def timed(*arguments):
        start = time.perf_counter()
        found = None if "picks" in sys.argv[5:] else coverage(*arguments)
        spent["coverage"] = time.perf_counter() - start
        return found

    module._coverage = timed
    with PeakMemory() as memory:
        start = time.perf_counter()
        pool = targeted(moments_of(store), read_target(Target(rows, rule=rule), store.dim, store.device))
        seen = time.perf_counter()
        alpha = 1.0 / float(pool.uncut.squared_norms.mean())
        found = choose_for_target(pool, RowLimit(picks), alpha, 0.1, None)
        end = time.perf_counter()
    cover = found.coverage
    measured = {
        "seconds": end - start - spent["coverage"],
        "seen": seen - start,
        "coverage": spent["coverage"],
        "bytes": memory.above_start,
        "threads": torch.get_num_threads(),
        "processor": time.process_time(),
    }
    if cover is not None:
        measured["means"] = [cover.mean(values) for values in (cover.picks, cover.whole, cover.random)]
        measured["certificate"] = cover.certificate
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
