"""The baselines from their definitions, on explicit gradient vectors and texts' losses: obviously correct, and slow."""

import math
from collections.abc import Sequence

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each row over its norm; a zero row stays."""
    return np.array([v / np.linalg.norm(v) if v.any() else v for v in vectors])


def log_volume(vectors: np.ndarray, subset: Sequence[int]) -> float:
    """log det of the cosines within a subset, -inf when its unit gradients are dependent."""
    u = unit(vectors)[list(subset)]
    sign, logarithm = np.linalg.slogdet(u @ u.T)
    return float(logarithm) if sign > 0 and logarithm > -18 else -math.inf


def greedy_dpp(vectors: np.ndarray, count: int) -> list[int]:
    """Add the row that leaves the largest determinant, as long as one leaves any; then the rest by number."""
    picks: list[int] = []
    while len(picks) < count:
        rest = [row for row in range(len(vectors)) if row not in picks]
        volumes = [log_volume(vectors, [*picks, row]) for row in rest]
        best = max(volumes)
        if best == -math.inf:
            return picks + rest[: count - len(picks)]
        picks.append(next(row for row, v in zip(rest, volumes, strict=True) if v >= best - 1e-9))
    return picks


def cosine_to_mean(vectors: np.ndarray) -> list[float]:
    """cos(g_i, mean of unit gradients), 0 where either is zero."""
    mean = unit(vectors).mean(axis=0)
    scale = np.linalg.norm(mean)
    return [float(u @ mean / scale) if scale > 0 else 0.0 for u in unit(vectors)]
