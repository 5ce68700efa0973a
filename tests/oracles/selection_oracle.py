"""SPICE from its definitions, on explicit gradient vectors: obviously correct, and slow on purpose.

Every value is recomputed from scratch in the space of the gradients (P x P determinants, a mean of vectors),
so no Gram matrix, running sum or update formula of the package is used. Gradients are an [m, P] array.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

Vectors = np.ndarray


def information(vectors: Vectors, subset: Sequence[int], alpha: float) -> float:
    """log det(I + alpha sum_{i in S} g_i g_i^T), with the P x P matrix written out."""
    fisher = np.zeros((vectors.shape[1], vectors.shape[1]))
    for row in subset:
        fisher += np.outer(vectors[row], vectors[row])
    sign, logarithm = np.linalg.slogdet(np.eye(vectors.shape[1]) + alpha * fisher)
    assert sign > 0
    return float(logarithm)


def gain(vectors: Vectors, row: int, subset: Sequence[int], alpha: float) -> float:
    """U(S + x) - U(S)."""
    return information(vectors, [*subset, row], alpha) - information(vectors, subset, alpha)


def conflict(vectors: Vectors, row: int, subset: Sequence[int]) -> float:
    """max(0, -cos(g_x, mean of S)), with 1e-8 in the denominator."""
    if not subset:
        return 0.0
    mean = vectors[list(subset)].mean(axis=0)
    if np.linalg.norm(mean) <= 1e-14 * np.linalg.norm(vectors[list(subset)], axis=1).max():
        return 0.0  # gradients that cancel: what is left is rounding and has no direction
    cosine = vectors[row] @ mean / (np.linalg.norm(vectors[row]) * np.linalg.norm(mean) + 1e-8)
    return max(0.0, -float(cosine))


def score(vectors: Vectors, row: int, subset: Sequence[int], alpha: float, penalty: float) -> float:
    """gain - lambda * conflict."""
    return gain(vectors, row, subset, alpha) - penalty * conflict(vectors, row, subset)


def optimum(vectors: Vectors, size: int, alpha: float) -> float:
    """U(OPT_k) by trying every subset of k rows."""
    return max(information(vectors, subset, alpha) for subset in combinations(range(len(vectors)), size))


def everyone_else(vectors: Vectors, row: int) -> list[int]:
    """D - x."""
    return [other for other in range(len(vectors)) if other != row]


def curvature(vectors: Vectors, alpha: float) -> float:
    """1 - min_x D_x(D - x) / D_x(empty) over the rows that are not zero; 0 when there is none."""
    ratios = [
        gain(vectors, row, everyone_else(vectors, row), alpha) / gain(vectors, row, [], alpha)
        for row in range(len(vectors))
        if vectors[row].any() and alpha > 0
    ]
    return 1.0 - min(ratios, default=1.0)
