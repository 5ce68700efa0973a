"""How many wrong answers each way of choosing takes, where every tenth row of a pool has one.

    python benchmarks/wrong_answers.py POOL --target maths.jsonl --target talk.jsonl --output DIR

Each seed draws a tenth of the rows and gives each the answer of another drawn row of its source. The share of these
rows among the picks is a tenth by chance. Features of the untouched pool come from one store for each kind, those of
the rows with another answer from a store with the same proxy, so the warm-up has seen no wrong answer. Choices are made
in candidate pools and among all rows, without a target and for each of the targets, which are the first 16 rows of the
files given. Then: how many of the rows that `run` and `pick` call doubtful are wrong, where all rows are picks. Writes
its section of benchmarks/RESULTS.md. Stores that are in DIR are used as they are.
"""

import argparse
import gzip
import json
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from report import machine, write_section
from spice_select import compute_gradients, select_from_features, select_from_gram
from spice_select.doubtful import OPPOSED, upper_fences
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
from spice_select.methods import FOR_TARGET, GRADIENT_METHODS, Aim
from spice_select.option_values import factor_of
from spice_select.schedule.pools import cut_pools
from spice_select.store.reading import GradientStore
from spice_select.study.intervals import Mean, interval

SHARE = 0.1
BUDGETS = (0.025, 0.05, 0.1)
KINDS = ("gradients", "preconditioned", "states")

Row = dict[str, Any]


class SwappedPool(NamedTuple):
    """A pool with the wrong answers of one seed."""

    rows: Tensor  # [n, d] scaled features
    wrong: set[int]
    losses: Tensor | None  # [n] nats a token; None for states


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


def scaled(store: GradientStore) -> Tensor:
    """Rows [n, d] of a store, scaled as `--scale auto` does."""
    lengths = torch.tensor([line.trained_tokens for line in store.listing.lines])
    scale = factor_of("auto", store.features)
    return gradient_scales(scale, lengths, store.squared_norms())[:, None] * store.block(0, store.rows)


Pick = Callable[[Tensor, Tensor, int, int], Sequence[int]]
"""Rows [n, d], target rows [t, d], number of picks, seed -> picks."""


def whole_pool(rows: Tensor, _target: Tensor, count: int, _seed: int) -> Sequence[int]:
    """As `--candidates all`: in the principal directions."""
    cut = rows @ principal_directions(moments_of(TensorFeatures(rows)), principal_rank(count))
    return select_from_features(cut, count, 1.0 / float(cut.square().sum(dim=1).mean())).indices


def in_pools(pick: Callable[[Tensor, int], Sequence[int]]) -> Pick:
    """The same share of each candidate pool of 120 rows, by a choice from its Gram matrix."""

    def picked(rows: Tensor, _target: Tensor, count: int, seed: int) -> Sequence[int]:
        picks: list[int] = []
        for pool in cut_pools(len(rows), 120, count, seed):
            if pool.quota:
                own = rows[pool.rows]
                picks += [pool.rows[place] for place in pick(own @ own.T, pool.quota)]
        return picks

    return picked


def by_default(gram: Tensor, count: int) -> Sequence[int]:
    """As `run` without options chooses in a candidate pool."""
    cut = principal_gram(scale_gram(gram, torch.ones(len(gram))), principal_rank(count))
    return select_from_gram(cut, count, relative_alpha(cut, 1.0)).indices


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


UNTARGETED: dict[str, Pick] = {
    "the default, in candidate pools": in_pools(by_default),
    "the default, among all rows": whole_pool,
    **{name: in_pools(pick) for name, pick in GRADIENT_METHODS.items()},
}
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


def store(rows: Sequence[Row], place: Path, kind: str, proxy_of: Path | None = None) -> GradientStore:
    """The store of features at `place`, which is made where it is missing."""
    if not (place / "manifest.json").exists():
        source = place.with_suffix(".jsonl")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        compute_gradients(source, output=place, features=kind, proxy_of=proxy_of)
    return GradientStore.open(place)


def swapped_pool(whole: GradientStore, changed: GradientStore, wrong: Sequence[int]) -> SwappedPool:
    """The rows of a store with those of `changed` in the places `wrong`."""
    places, losses, other = torch.tensor(wrong), whole.losses(), changed.losses()
    known = None if losses is None or other is None else losses.index_copy(0, places, other)
    return SwappedPool(scaled(whole).index_copy(0, places, scaled(changed)), {*wrong}, known)


def percent(found: Mean) -> str:
    """A mean of percentages with its interval."""
    return f"{found.mean:.1f}" + ("" if found.half is None else f" ± {found.half:.1f}")


def shares(picks: Pick, pools: Sequence[SwappedPool], targets: Sequence[Tensor], budget: float) -> list[float]:
    """The share of wrong answers among the picks of each seed, its mean over targets."""
    found: list[float] = []
    for seed, (rows, wrong, _) in enumerate(pools):
        count = round(budget * len(rows))
        found.append(statistics.fmean(len(wrong & {*picks(rows, target, count, seed)}) / count for target in targets))
    return found


def named(pools: Sequence[SwappedPool], targets: Sequence[Tensor], sources: Sequence[str]) -> list[tuple[str, str]]:
    """What is doubtful -> how many rows of all pools and targets are, and how many of these are wrong."""
    found: dict[str, list[int]] = {}
    for pool in pools:
        doubtful: dict[str, list[Sequence[int]]] = {}
        if pool.losses is not None:
            losses = pool.losses.numpy()
            doubtful["loss above its source's fence"] = [
                np.flatnonzero(losses > upper_fences(losses, sources)).tolist()
            ]
        alpha = 1.0 / float(pool.rows.square().sum(dim=1).mean())
        for target in targets:
            coverage = select_from_features(pool.rows, 1, alpha, target=Target(target)).coverage
            assert coverage is not None, "a choice for a target has one"
            opposed: list[int] = np.flatnonzero(coverage.conflict.numpy() > OPPOSED).tolist()
            doubtful.setdefault("conflict with a target", []).append(opposed)
        for what, groups in doubtful.items():
            counts = found.setdefault(what, [0, 0])
            counts[0] += sum(map(len, groups))
            counts[1] += sum(len(pool.wrong.intersection(group)) for group in groups)
    return [
        (what, f"{wrong:,} of {rows:,}" + (f" ({wrong / rows:.0%})" if rows else ""))
        for what, (rows, wrong) in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--target", type=Path, action="append", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows, output = rows_of(arguments.pool), arguments.output
    drawn = [swapped(rows, random.Random(seed)) for seed in range(arguments.seeds)]
    sources, lines, doubts = [row["source"] for row in rows], list[str](), list[str]()
    for kind in KINDS:
        home, plain = output / kind, "gradients" if kind == "preconditioned" else kind  # a target is not preconditioned
        whole = store(rows, home / "pool", kind)
        aimed = [store(rows_of(path)[:16], home / path.stem, plain, home / "pool") for path in arguments.target]
        targets = [scaled(target) for target in aimed]
        pools = [
            swapped_pool(whole, store([*wrong.values()], home / f"wrong-{seed}", kind, home / "pool"), [*wrong])
            for seed, wrong in enumerate(drawn)
        ]
        for arms, aims in ((UNTARGETED, targets[:1]), (TARGETED, targets)):
            for name, pick in arms.items():
                means = [percent(interval([100 * share for share in shares(pick, pools, aims, b)])) for b in BUDGETS]
                lines.append(f"| {kind} | {'yes' if arms is TARGETED else 'no'} | {name} | {' | '.join(means)} |")
                print(lines[-1], flush=True)
        doubts += [f"| {kind} | {what} | {how_many} |" for what, how_many in named(pools, targets, sources)]
    counts = ", ".join(f"{len(wrong)}" for wrong in drawn)
    report = [
        machine(torch.device("cpu")),
        "",
        f"{len(rows):,} rows, of which {counts} have the answer of another row of their source; "
        f"{len(arguments.target)} targets "
        "of 16 rows, over which a seed's share is averaged; mean over seeds ± half a 95 % interval. By chance: 10 %.",
        "",
        f"| features | target | picks | {' | '.join(f'wrong of {b:.1%}, %' for b in BUDGETS)} |",
        "| --- | --- | --- | --: | --: | --: |",
        *lines,
        "",
        "Rows of the whole pools that would be called doubtful as picks, over all seeds (and targets), and those "
        "of them whose answer is wrong. By chance: 10 %.",
        "",
        "| features | doubtful for | wrong of those named |",
        "| --- | --- | --: |",
        *doubts,
    ]
    write_section("Wrong answers among the picks", "wrong_answers.py", report)


if __name__ == "__main__":
    main()
