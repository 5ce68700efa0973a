"""Processes that choose together, and each of them alone: run by a test through torchrun.

python -m torch.distributed.run --standalone --nproc-per-node 3 shared_picks.py
"""

import sys

import torch
from torch import Tensor

from spice_select.distributed.process_group import all_gather_texts, process_group
from spice_select.information.choosing import choose_rows
from spice_select.information.features import TensorFeatures
from spice_select.information.for_target import choose_for_target, targeted
from spice_select.information.limits import CostLimit, GroupLimit, Limit, RowLimit
from spice_select.information.moments import moments_of, principal_directions, projected
from spice_select.information.objective import random_draws
from spice_select.information.ranks import ALONE, Ranks
from spice_select.information.selection import Selection
from spice_select.information.target import Target, read_target
from spice_select.methods import FOR_TARGET, Aim
from spice_select.option_values import TARGETED


def problem(seed: int) -> tuple[TensorFeatures, Limit, float, float | None, TensorFeatures | None, int | None]:
    """Rows with copies, zeros and opposites, and one of every kind of limit."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    rows, dim = draw(1, 60), draw(1, 24)
    features = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    features[torch.rand(rows, generator=generator) < 0.2] = features[0].clone() * draw(-1, 1)
    budget = draw(1, rows)
    groups = torch.randint(2, (rows,), generator=generator)
    ceiling = max(1, budget // 2)
    limits: list[Limit] = [RowLimit(budget), RowLimit(budget)]
    limits.append(CostLimit(torch.randint(1, 9, (rows,), generator=generator).double(), 9.0 + budget))
    if int((groups == 0).sum()) >= budget - ceiling:
        limits.append(GroupLimit(budget - ceiling, groups, [0, 0], [budget, 0]) if budget > ceiling else limits[0])
    given = TensorFeatures(torch.randn(5, dim, generator=generator, dtype=torch.float64)) if seed % 3 == 0 else None
    stop_ratio = 0.6 if seed % 4 == 1 else None
    rank = 2 if seed % 5 == 2 and min(rows, dim) > 2 else None
    return TensorFeatures(features), limits[seed % len(limits)], 0.1 * draw(0, 20), stop_ratio, given, rank


def choose(seed: int, ranks: Ranks) -> tuple[Selection, Tensor]:
    """The selection and what random rows reach."""
    features, limit, penalty, stop_ratio, given, rank = problem(seed)
    known = moments_of(features, ranks)
    if rank is not None:
        directions = principal_directions(known, rank)
        features = projected(features, directions, ranks)
        given = None if given is None else projected(given, directions, ranks)
        known = moments_of(features, ranks)
    if seed % 3 == 1:
        rows = torch.randn(3, features.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        target = Target(rows, share=0.7 if seed % 2 else 1.0, rule="variance" if seed % 4 else "information")
        pool = targeted(known, read_target(target, features.dim, features.device), given)
        aim = Aim(features, [rows[:2], rows[2:]], limit, seed, ranks=ranks)
        order = FOR_TARGET[TARGETED[seed // 3 % 3]](aim) if seed % 6 == 1 else []
        found = choose_for_target(pool, limit, 0.7, penalty, stop_ratio, 0.9 if seed % 5 == 0 else None, order=order)
    else:
        found = choose_rows(known, limit, 0.7, penalty, stop_ratio, given)
    generator = torch.Generator().manual_seed(seed)
    by_chance = random_draws(features, limit, found.indices, 0.7, 5, generator, given, ranks)
    return found, by_chance


def main() -> None:
    with process_group() as ranks:
        for seed in range(120):
            (one, by_chance), (other, expected) = choose(seed, ranks), choose(seed, ALONE)
            assert one.indices == other.indices, (seed, one.indices, other.indices)
            assert one.stopped_early == other.stopped_early, seed
            for name in ("gain", "base", "conflict"):
                torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-8, atol=1e-9)
            for name in ("bound", "ratio"):
                assert abs(getattr(one.certificate, name) - getattr(other.certificate, name)) < 1e-7, seed
            assert abs(one.curvature - other.curvature) < 1e-6, seed
            for name in () if one.coverage is None else ("steps", "whole", "random", "conflict"):
                torch.testing.assert_close(
                    getattr(one.coverage, name), getattr(other.coverage, name), rtol=0.0, atol=1e-8
                )
            torch.testing.assert_close(by_chance, expected, rtol=0.0, atol=1e-9)
        gathered = all_gather_texts(ranks, "ü" * ranks.rank)
        assert gathered == ["ü" * rank for rank in range(ranks.size)]
        if ranks.rank == 0:
            sys.stdout.write(f"{ranks.size} processes agree\n")


if __name__ == "__main__":
    main()
