"""Diversity measures, near-duplicates and Theorem 4 from their definitions, in loops: obviously correct, and slow."""

import math
from collections.abc import Sequence

import numpy as np

Vectors = np.ndarray


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def cosines(vectors: Vectors) -> np.ndarray:
    return np.array([[cosine(a, b) for b in vectors] for a in vectors])


def vendi(vectors: Vectors) -> float:
    """exp of the entropy of the eigenvalues of K / k."""
    values = np.linalg.eigvalsh(cosines(vectors) / len(vectors))
    return math.exp(-sum(value * math.log(value) for value in values if value > 1e-15))


def log_det_distance(vectors: Vectors, ridge: float) -> float:
    """-log det((K + r I) / (1 + r)) / k."""
    count = len(vectors)
    sign, logarithm = np.linalg.slogdet((cosines(vectors) + ridge * np.eye(count)) / (1 + ridge))
    assert sign > 0
    return -float(logarithm) / count


def groups(vectors: Vectors, least: float) -> list[list[int]]:
    """Connected components of the graph that joins rows of a cosine of at least `least`, two rows or more."""
    return components(len(vectors), pairs(vectors, least))


def pairs(vectors: Vectors, least: float) -> set[tuple[int, int]]:
    """Rows (i, j), in both orders, whose cosine is at least `least`."""
    long = [i for i in range(len(vectors)) if np.linalg.norm(vectors[i]) > 0]
    return {(i, j) for i in long for j in long if i != j and cosine(vectors[i], vectors[j]) >= least}


def components(count: int, joined: set[tuple[int, int]]) -> list[list[int]]:
    """Connected components of the graph on `count` rows with these edges, two rows or more."""
    near = {i: [j for j in range(count) if (i, j) in joined] for i in range(count)}
    left, found = set(range(count)), []
    while left:
        reached, edge = set(), [min(left)]
        while edge:
            row = edge.pop()
            if row not in reached:
                reached.add(row)
                edge += near[row]
        left -= reached
        if len(reached) > 1:
            found.append(sorted(reached))
    return found


def theorem4(vectors: Vectors, picks: Sequence[int], alpha: float) -> tuple[int, int, int]:
    """Steps, those that meet the condition, and those of them at which the bound held, with P x P matrices."""
    width, condition, held = vectors.shape[1], 0, 0
    largest = max(float(v @ v) for v in vectors)
    for step in range(1, len(picks)):
        before, x = vectors[list(picks[:step])], vectors[picks[step]]
        fisher = sum(np.outer(y, y) for y in before)
        rho = alpha * float(np.linalg.eigvalsh(fisher)[-1])
        denominator = 1 - rho - alpha * largest * rho
        if rho >= 1 or denominator <= 0:
            continue
        condition += 1
        alone = math.log1p(alpha * float(x @ x))
        beside = math.log1p(alpha * float(x @ np.linalg.solve(np.eye(width) + alpha * fisher, x)))
        bound = alpha**2 * sum(float(x @ y) ** 2 for y in before) / (1 + alpha * float(x @ x)) / denominator
        held += abs(beside - alone) <= bound * (1 + 1e-9) + 1e-12
    return max(len(picks) - 1, 0), condition, held
