"""One choice for a target, by one program, as a process of its own; used by target_speed.py.

python benchmarks/target_arms.py ARM ROWS DIM PICKS TARGETS     prints one line of JSON
"""

import json
import sys
import time

import torch
from memory import PeakMemory
from torch import Tensor

Features = tuple[Tensor, Tensor]


def features(rows: int, dim: int, targets: int) -> Features:
    """Unit rows [n, d] of twenty kinds over a falling spectrum, and targets [t, d] of one kind."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.arange(1, dim + 1, dtype=torch.float32) ** -0.35
    kinds = torch.randn(20, dim, generator=generator) * spread
    kind = torch.randint(20, (rows,), generator=generator)
    made = kinds[kind] * 0.5 + torch.randn(rows, dim, generator=generator) * spread
    wanted = kinds[:1] * 0.5 + torch.randn(targets, dim, generator=generator) * spread
    return torch.nn.functional.normalize(made), torch.nn.functional.normalize(wanted)


def ours(rows: Tensor, targets: Tensor, picks: int) -> list[int]:
    from spice_select import select_from_features

    return select_from_features(rows, picks, 1.0, target=targets).indices


def ours_cut(rows: Tensor, targets: Tensor, picks: int) -> list[int]:
    """As in a pool too large to be seen in all directions."""
    from spice_select.information import target

    target.EXACT = 0
    return ours(rows, targets, picks)


def ours_unsigned(rows: Tensor, targets: Tensor, picks: int) -> list[int]:
    """The rule of variance alone: rows that point against the target count as much as those along it."""
    from spice_select.information import for_target

    for_target._favour = lambda pool: torch.ones_like(pool.view.conflict)
    return ours(rows, targets, picks)


def activeft(rows: Tensor, targets: Tensor, picks: int, *, lazy: bool = False) -> list[int]:
    from activeft.acquisition_functions.lazy_vtl import LazyVTL
    from activeft.acquisition_functions.vtl import VTL
    from activeft.sift import Dataset

    options = {"target": targets, "num_workers": 0, "subsample": False, "noise_std": 1.0}
    rule = LazyVTL(**options) if lazy else VTL(**options, mini_batch_size=len(rows))
    chosen, _ = rule.select(picks, None, Dataset(rows))
    return chosen.tolist()


ARMS = {
    "ours": ours,
    "ours, cut": ours_cut,
    "ours, signs ignored": ours_unsigned,
    "activeft VTL": activeft,
    "activeft LazyVTL": lambda rows, targets, picks: activeft(rows, targets, picks, lazy=True),
}


def variance(rows: Tensor, targets: Tensor, picks: list[int]) -> float:
    """The targets' mean posterior variance in all dimensions, in float64; a row picked twice counts twice."""
    chosen, wanted = rows[picks].double(), targets.double()
    matrix = torch.eye(rows.shape[1], dtype=torch.float64) + chosen.T @ chosen
    return float((torch.linalg.solve(matrix, wanted.T) * wanted.T).sum() / len(wanted))


def main() -> None:
    arm, (rows, dim, picks, targets) = sys.argv[1], map(int, sys.argv[2:6])
    made, wanted = features(rows, dim, targets)
    ARMS[arm](made[:200], wanted, 5)  # imports and first calls
    with PeakMemory() as memory:
        start = time.perf_counter()
        found = ARMS[arm](made, wanted, picks)
        seconds = time.perf_counter() - start
    measured = {"seconds": seconds, "bytes": memory.above_start, "variance": variance(made, wanted, found),
                "variance_distinct": variance(made, wanted, list(set(found))),
                "distinct": len(set(found)), "picks": found}  # fmt: skip
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
