"""How many wrong answers each way of choosing takes, where every tenth row of a pool has one.

    python benchmarks/wrong_answers.py POOL --target maths.jsonl --target talk.jsonl --output DIR

Each seed draws a tenth of the rows and gives each the answer of another drawn row of its source. The share of these
rows among the picks is a tenth by chance. Features of the untouched pool come from one store for each kind, those of
the rows with another answer from a store with the same proxy, so the warm-up has seen no wrong answer. Choices are made
in candidate pools and among all rows, without a target and for each of the targets, which are the first 16 rows of the
files given. Writes its section of benchmarks/RESULTS.md. Stores that are in DIR are used as they are.
"""

import argparse
import gzip
import json
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from report import machine, write_section
from spice_select import compute_gradients, select_from_features, select_from_gram
from spice_select.information import (
    RowLimit,
    Rule,
    Target,
    TensorFeatures,
    gradient_scales,
    moments_of,
    principal_directions,
    principal_gram,
    principal_rank,
    relative_alpha,
    scale_gram,
)
from spice_select.methods import FOR_TARGET, Aim
from spice_select.schedule.pools import cut_pools
from spice_select.store.reading import GradientStore
from spice_select.study.table import interval

SHARE = 0.1
BUDGETS = (0.025, 0.05, 0.1)
KINDS = ("gradients", "states")

Row = dict[str, Any]


def swapped(rows: Sequence[Row], chance: random.Random) -> dict[int, Row]:
    """Place -> row with the answer of another of a tenth of the rows, of the same source."""
    by_source: dict[str, list[int]] = {}
    for place in chance.sample(range(len(rows)), round(SHARE * len(rows))):
        by_source.setdefault(rows[place]["source"], []).append(place)
    found: dict[int, Row] = {}
    for places in by_source.values():
        for place, other in zip(places, [*places[1:], places[0]], strict=True):
            said, answer = rows[place]["messages"], rows[other]["messages"][-1]
            if answer != said[-1]:
                found[place] = {**rows[place], "messages": [*said[:-1], answer]}
    return found


def scaled(store: GradientStore, kind: str) -> Tensor:
    """Rows [n, d] of a store, scaled as `--scale auto` does."""
    lengths = torch.tensor([line.trained_tokens for line in store.listing.lines])
    scale = "geometric" if kind == "gradients" else "unit"
    return gradient_scales(scale, lengths, store.squared_norms())[:, None] * store.block(0, store.rows)


Pick = Callable[[Tensor, Tensor, int, int], Sequence[int]]
"""Rows [n, d], target rows [t, d], number of picks, seed -> picks."""


def whole_pool(rows: Tensor, _target: Tensor, count: int, _seed: int) -> Sequence[int]:
    """As `--pool-size all`: in the principal directions."""
    cut = rows @ principal_directions(moments_of(TensorFeatures(rows)), principal_rank(count))
    return select_from_features(cut, count, 1.0 / float(cut.square().sum(dim=1).mean())).indices


def candidate_pools(rows: Tensor, _target: Tensor, count: int, seed: int) -> Sequence[int]:
    """As by default: the same share of each pool of 120 rows."""
    picks: list[int] = []
    for pool in cut_pools(len(rows), 120, count, seed):
        if pool.quota:
            own = rows[pool.rows]
            gram = principal_gram(scale_gram(own @ own.T, torch.ones(len(own))), principal_rank(pool.quota))
            chosen = select_from_gram(gram, pool.quota, relative_alpha(gram, 1.0))
            picks += [pool.rows[place] for place in chosen.indices]
    return picks


def by_rule(rule: Rule) -> Pick:
    """As `--target-rule`."""

    def pick(rows: Tensor, target: Tensor, count: int, _seed: int) -> Sequence[int]:
        alpha = 1.0 / float(rows.square().sum(dim=1).mean())
        return select_from_features(rows, count, alpha, target=Target(target, rule=rule)).indices

    return pick


def by_method(method: str) -> Pick:
    """As `--method`."""

    def pick(rows: Tensor, target: Tensor, count: int, seed: int) -> Sequence[int]:
        return FOR_TARGET[method](Aim(TensorFeatures(rows), [target], RowLimit(count), seed))

    return pick


UNTARGETED: dict[str, Pick] = {"candidate pools of 120": candidate_pools, "among all rows": whole_pool}
TARGETED: dict[str, Pick] = {
    "variance": by_rule("variance"),
    "information": by_rule("information"),
    "nearest to the mean (LESS)": by_method("less"),
    "turns (RDS+)": by_method("rds"),
    "TSDS": by_method("tsds"),
}


def rows_of(path: Path) -> list[Row]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return [json.loads(text) for text in file]


def store(rows: Sequence[Row], place: Path, kind: str, proxy_of: Path | None = None) -> Tensor:
    """Features [n, d] of rows, scaled; from the store at `place`, which is made where it is missing."""
    if not (place / "manifest.json").exists():
        source = place.with_suffix(".jsonl")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        compute_gradients(source, output=place, features=kind, proxy_of=proxy_of)
    return scaled(GradientStore.open(place), kind)


def shares(
    picks: Pick, pools: Sequence[tuple[Tensor, set[int]]], targets: Sequence[Tensor], budget: float
) -> list[float]:
    """The share of wrong answers among the picks of each seed, its mean over targets."""
    found: list[float] = []
    for seed, (rows, wrong) in enumerate(pools):
        count = round(budget * len(rows))
        found.append(statistics.fmean(len(wrong & {*picks(rows, target, count, seed)}) / count for target in targets))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--target", type=Path, action="append", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows, output = rows_of(arguments.pool), arguments.output
    drawn = [swapped(rows, random.Random(seed)) for seed in range(arguments.seeds)]
    lines, targets = list[str](), list[Tensor]()
    for kind in KINDS:
        home = output / kind
        whole = store(rows, home / "pool", kind)
        targets = [store(rows_of(path)[:16], home / path.stem, kind, home / "pool") for path in arguments.target]
        pools: list[tuple[Tensor, set[int]]] = []
        for seed, wrong in enumerate(drawn):
            changed = store([*wrong.values()], home / f"wrong-{seed}", kind, home / "pool")
            pools.append((whole.index_copy(0, torch.tensor([*wrong]), changed), {*wrong}))
        for arms, aims in ((UNTARGETED, targets[:1]), (TARGETED, targets)):
            for name, pick in arms.items():
                means = [f"{interval([100 * share for share in shares(pick, pools, aims, b)])}" for b in BUDGETS]
                lines.append(f"| {kind} | {'yes' if arms is TARGETED else 'no'} | {name} | {' | '.join(means)} |")
                print(lines[-1], flush=True)
    counts = ", ".join(f"{len(wrong)}" for wrong in drawn)
    report = [
        machine(torch.device("cpu")),
        "",
        f"{len(rows):,} rows, of which {counts} have the answer of another row of their source; {len(targets)} targets "
        "of 16 rows, over which a seed's share is averaged; mean over seeds ± half a 95 % interval. By chance: 10 %.",
        "",
        f"| features | target | picks | {' | '.join(f'wrong of {b:.1%}, %' for b in BUDGETS)} |",
        "| --- | --- | --- | --: | --: | --: |",
        *lines,
    ]
    write_section("Wrong answers among the picks", "wrong_answers.py", report)


if __name__ == "__main__":
    main()
