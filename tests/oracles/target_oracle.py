"""Choosing for a target from its definitions, on dense vectors in numpy: obviously correct, and slow.

Nothing is updated: every inverse, metric and cosine is computed anew. Picks end where only opposed rows are left.
`vectors` are [n, P], `targets` [t, P].
"""

from collections.abc import Sequence

import numpy as np

from oracles import selection_oracle

Vectors = np.ndarray
_NOTHING = 1e-8  # rows of lower scores are all opposed or add nothing: rounding orders them, and no pick is stated


def shrunk(vectors: Vectors, subset: Sequence[int], alpha: float, given: Vectors | None = None) -> np.ndarray:
    """(I + alpha F_S)^-1."""
    chosen = vectors[list(subset)]
    rows = chosen if given is None else np.concatenate([chosen, given])
    return np.linalg.inv(np.eye(vectors.shape[1]) + alpha * rows.T @ rows)


def metric(vectors: Vectors, targets: Vectors, weights: np.ndarray, share: float, rank: int | None) -> np.ndarray:
    """b A + (1 - b) times the pool's mean outer product, each with trace 1; A is cut to `rank` eigenpairs."""
    whole = sum(w * np.outer(q, q) for w, q in zip(weights / weights.sum(), targets, strict=True))
    values, directions = np.linalg.eigh(whole)
    kept = values.copy()
    kept[: max(0, len(kept) - (rank or len(targets)))] = 0.0
    own = (directions * kept) @ directions.T
    own = own / np.trace(own)
    pool = vectors.T @ vectors
    return share * own + ((1.0 - share) * pool / np.trace(pool) if share < 1 and pool.any() else 0.0)


def variance(vectors: Vectors, a: np.ndarray, subset: Sequence[int], alpha: float, given: Vectors | None) -> float:
    """tr(A M): with A = sum w q q^T the posterior variance of the target."""
    return float(np.trace(a @ shrunk(vectors, subset, alpha, given)))


def conflicts(vectors: Vectors, targets: Vectors, weights: np.ndarray, a: np.ndarray) -> np.ndarray:
    """max(0, -cos(g, mean target)) in the metric A."""
    mean = (weights / weights.sum()) @ targets
    lengths = np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", vectors, a, vectors), 0.0))
    far = np.sqrt(max(mean @ a @ mean, 0.0))
    products = vectors @ a @ mean
    known = (lengths > 1e-12 * max(lengths.max(), 1e-300)) & (far > 0)
    return np.where(known, np.maximum(0.0, -products / np.where(known, lengths * far, 1.0)), 0.0)


def greedy(
    vectors: Vectors, a: np.ndarray, against: np.ndarray, budget: int, alpha: float, given: Vectors | None = None
) -> list[int]:
    """Picks by (share of the variance explained) * (1 - conflict^4); ties go to the lower row."""
    picks: list[int] = []
    start = variance(vectors, a, [], alpha, given)
    while len(picks) < budget:
        before = variance(vectors, a, picks, alpha, given)
        scores = np.full(len(vectors), -np.inf)
        for row in set(range(len(vectors))) - set(picks):
            scores[row] = (before - variance(vectors, a, [*picks, row], alpha, given)) / start * (1 - against[row] ** 4)
        if scores.max() < _NOTHING:
            break
        picks.append(int(np.flatnonzero(scores >= scores.max() - 1e-12)[0]))
    return picks


def directed_greedy(vectors: Vectors, a: np.ndarray, against: np.ndarray, budget: int, alpha: float) -> list[int]:
    """Picks by gain of U on A^(1/2) g, of the pool's mean square, times (1 - conflict^4)."""
    values, directions = np.linalg.eigh(a)
    directed = vectors @ (directions * np.sqrt(np.maximum(values, 0.0)))
    lengths = (directed**2).sum()
    directed = directed * np.sqrt((vectors**2).sum() / lengths) if lengths > 0 else directed
    picks: list[int] = []
    while len(picks) < budget:
        scores = np.full(len(vectors), -np.inf)
        for row in set(range(len(vectors))) - set(picks):
            scores[row] = selection_oracle.gain(directed, row, picks, alpha) * (1 - against[row] ** 4)
        if scores.max() < _NOTHING:
            break
        picks.append(int(np.flatnonzero(scores >= scores.max() - 1e-12)[0]))
    return picks


def coverage(
    vectors: Vectors, targets: Vectors, subset: Sequence[int], alpha: float, given: Vectors | None = None
) -> np.ndarray:
    """1 - q^T M q / q^T q of each target row; 0 for a zero row."""
    inverse = shrunk(vectors, subset, alpha, given)
    return np.array([1.0 - q @ inverse @ q / (q @ q) if q.any() else 0.0 for q in targets])
