"""The ways of picking k of n rows that `greedy_speed.py` compares; each is run in a process of its own.

    python benchmarks/greedy_arms.py ARM ROWS DIM PICKS        prints one line of JSON

Every arm maximises log det(I + alpha F_S); those with a penalty subtract 0.1 times the conflict with the mean gradient.
Features come from a seed: a falling spectrum, a common direction, a tenth of the rows copies of others with noise.
"""

import json
import math
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from memory import PeakMemory
from torch import Tensor

from spice_select import select_from_features
from spice_select.information import RowLimit, TensorFeatures, moments_of
from spice_select.information.gram_engine import GramEngine
from spice_select.information.greedy import greedy
from spice_select.information.lazy_engine import LazyEngine

PENALTY = 0.1
Arm = Callable[[Tensor, float, int], list[int]]


def features_of(rows: int, dim: int, seed: int = 0) -> Tensor:
    """[n, d] float32."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.arange(1, dim + 1, dtype=torch.float32) ** -0.35
    result = torch.randn(rows, dim, generator=generator) * spread
    result += 0.3 * spread * torch.randn(dim, generator=generator)
    result *= torch.exp(0.4 * torch.randn(rows, 1, generator=generator))
    copies = torch.randint(rows, (2, rows // 20), generator=generator)
    result[copies[0]] = result[copies[1]] + 0.1 * result[copies[0]]
    return result


def strength(features: Tensor) -> float:
    """Alpha relative to the mean squared norm."""
    return 1.0 / float(features.square().sum(dim=1).double().mean())


def ours(features: Tensor, alpha: float, picks: int) -> list[int]:
    """The picks alone: what the other arms give."""
    engine = LazyEngine(moments_of(TensorFeatures(features)), alpha, PENALTY, picks)
    return greedy(engine, RowLimit(picks)).rows


def ours_whole(features: Tensor, alpha: float, picks: int) -> list[int]:
    """With certificate, curvature, and every row's gain and conflict at the end."""
    selection = select_from_features(features, picks, alpha, PENALTY)
    _ = selection.certificate  # computed when it is read
    return selection.indices


def ours_gram(features: Tensor, alpha: float, picks: int) -> list[int]:
    """Our own form on the Gram matrix, which evaluates every row at every step, in float64."""
    wide = features.double()
    return greedy(GramEngine(wide @ wide.T, alpha, PENALTY, picks), RowLimit(picks)).rows


def rank_one(dtype: torch.dtype) -> Arm:
    """q_i falls by (w . g_i)^2 for every row at every pick; conflicts from one more product."""

    def pick(features: Tensor, alpha: float, picks: int) -> list[int]:
        rows = features.to(dtype)
        norms = rows.square().sum(dim=1).sqrt()
        left, against = norms.square(), torch.zeros_like(norms)
        w_all = torch.zeros(picks, rows.shape[1], dtype=dtype)
        total, chosen = torch.zeros_like(rows[0]), list[int]()
        for count in range(picks):
            row = _best(left, against, norms, total, alpha, chosen)
            vector, done = rows[row], w_all[:count]
            image = vector - (done @ vector) @ done
            w = image * math.sqrt(alpha / (1 + alpha * float(vector @ image)))
            w_all[count] = w
            met = rows @ torch.stack([w, vector], dim=1)  # [n, 2]
            left = (left - met[:, 0].square()).clamp(min=0)
            against += met[:, 1]
            total += vector
            chosen.append(row)
        return chosen

    return pick


def cholesky(dtype: torch.dtype) -> Arm:
    """The incremental Cholesky factor of I + alpha K (Chen et al. 2018), a kernel row on demand for each pick."""

    def pick(features: Tensor, alpha: float, picks: int) -> list[int]:
        rows = features.to(dtype)
        norms = rows.square().sum(dim=1).sqrt()
        left, against = norms.square(), torch.zeros_like(norms)
        factor = torch.zeros(picks, len(rows), dtype=dtype)
        total, chosen = torch.zeros_like(rows[0]), list[int]()
        for count in range(picks):
            row = _best(left, against, norms, total, alpha, chosen)
            products = rows @ rows[row]  # [n]
            done = factor[:count]
            new = (products - done[:, row] @ done) / math.sqrt(1 / alpha + float(left[row]))
            factor[count] = new
            left = (left - new.square()).clamp(min=0)
            against += products
            total += rows[row]
            chosen.append(row)
        return chosen

    return pick


def _best(left: Tensor, against: Tensor, norms: Tensor, total: Tensor, alpha: float, chosen: list[int]) -> int:
    """The row of the highest score; the sum of the chosen gradients stands for their mean."""
    score = torch.log1p(alpha * left)
    if chosen:
        cosine = against / (norms * total.norm() + 1e-8)
        score -= PENALTY * (-cosine).clamp(min=0)
        score[chosen] = -torch.inf
    return int(score.argmax())


def plain(features: Tensor, alpha: float, picks: int) -> list[int]:
    """One candidate at a time, in numpy."""
    rows = features.double().numpy()
    norms = np.linalg.norm(rows, axis=1)
    w_all, total, chosen = np.zeros((picks, rows.shape[1])), np.zeros(rows.shape[1]), list[int]()
    for count in range(picks):
        done, length, best = w_all[:count], np.linalg.norm(total), (-math.inf, -1)
        for row in range(len(rows)):
            if row in chosen:
                continue
            met = done @ rows[row]
            gain = math.log1p(alpha * (norms[row] ** 2 - met @ met))
            cosine = rows[row] @ total / (norms[row] * length + 1e-8)
            best = max(best, (gain - PENALTY * max(0.0, -cosine), -row))
        vector = rows[-best[1]]
        image = vector - (done @ vector) @ done
        w_all[count] = image * math.sqrt(alpha / (1 + alpha * (vector @ image)))
        total += vector
        chosen.append(-best[1])
    return chosen


def submodlib(optimizer: str) -> Arm:
    """submodlib-py's LogDeterminant on the kernel alpha K, lambdaVal 1; it knows no penalty."""

    def pick(features: Tensor, alpha: float, picks: int) -> list[int]:
        from submodlib import LogDeterminantFunction

        wide = features.double()
        kernel = (alpha * wide @ wide.T).numpy()
        function = LogDeterminantFunction(n=len(kernel), mode="dense", lambdaVal=1.0, sijs=kernel)
        return [row for row, _ in function.maximize(budget=picks, optimizer=optimizer, show_progress=False)]

    return pick


ARMS: dict[str, Arm] = {
    "ours": ours,
    "ours, with certificate": ours_whole,
    "ours, Gram": ours_gram,
    "Cholesky, float64": cholesky(torch.float64),
    "Cholesky, float32": cholesky(torch.float32),
    "rank-one, float64": rank_one(torch.float64),
    "rank-one, float32": rank_one(torch.float32),
    "submodlib, lazy": submodlib("LazyGreedy"),
    "submodlib, naive": submodlib("NaiveGreedy"),
    "plain loop": plain,
}


def main() -> None:
    name, rows, dim, picks = sys.argv[1], *map(int, sys.argv[2:5])
    features = features_of(rows, dim)
    alpha = strength(features)
    ARMS[name](features_of(64, 16, 1), 1.0, 8)  # first use loads libraries and starts threads
    with PeakMemory() as memory:
        start = time.perf_counter()
        chosen = ARMS[name](features, alpha, picks)
        seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "bytes": memory.above_start, "picks": chosen}))


if __name__ == "__main__":
    main()
