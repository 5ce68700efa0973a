"""The baselines from their definitions, on explicit gradient vectors and texts' losses: obviously correct, and slow."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linprog


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


def cosines(vectors: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Of each row with each target row, [n, t]; 0 for a zero row."""
    return unit(vectors) @ unit(targets).T


def with_direction(targets: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The targets without zero rows, and without those that have no other."""
    return [rows[rows.any(axis=1)] for rows in targets if rows.any()]


def highest(scores: np.ndarray, allowed: Sequence[int]) -> int:
    """The lowest of the allowed rows whose score is the best of them, up to rounding."""
    best = max(scores[row] for row in allowed)
    return next(row for row in sorted(allowed) if scores[row] >= best - 1e-9)


def allowed_rows(picks: Sequence[int], limit: dict, rows: int) -> list[int]:
    """Rows that may follow these picks under a limit of `most` rows, in `budget`, or with `ceilings` of groups."""
    left = [row for row in range(rows) if row not in picks]
    if "costs" in limit:
        spent = sum(limit["costs"][row] for row in picks)
        return [row for row in left if spent + limit["costs"][row] <= limit["budget"]]
    if len(picks) == limit["most"]:
        return []
    if "groups" not in limit:
        return left
    counts = [sum(limit["groups"][row] == group for row in picks) for group in range(len(limit["floors"]))]

    def can_be_completed(row: int) -> bool:
        after = [count + (limit["groups"][row] == group) for group, count in enumerate(counts)]
        needed = sum(max(0, floor - count) for floor, count in zip(limit["floors"], after, strict=True))
        full = any(count > most for count, most in zip(after, limit["ceilings"], strict=True))
        return not full and needed <= limit["most"] - len(picks) - 1

    return [row for row in left if can_be_completed(row)]


def in_turns(scores: np.ndarray, limit: dict) -> list[int]:
    """Each column of scores [n, s] in turn takes its best row, as long as one is allowed."""
    picks: list[int] = []
    while allowed := allowed_rows(picks, limit, len(scores)):
        picks.append(highest(scores[:, len(picks) % scores.shape[1]], allowed))
    return picks


def less(vectors: np.ndarray, targets: Sequence[np.ndarray], limit: dict) -> list[int]:
    """By the highest, over targets, of the mean cosine with a target's rows."""
    means = [cosines(vectors, rows).mean(axis=1) for rows in with_direction(targets)]
    return in_turns(np.max(means, axis=0)[:, None], limit)


def rds(vectors: np.ndarray, targets: Sequence[np.ndarray], limit: dict) -> list[int]:
    """Rows of one target, or several targets with the highest cosine to any of their rows, take turns."""
    found = [cosines(vectors, rows) for rows in with_direction(targets)]
    return in_turns(found[0] if len(found) == 1 else np.stack([own.max(axis=1) for own in found], axis=1), limit)


def neighbours(vectors: np.ndarray, targets: np.ndarray, count: int) -> list[list[int]]:
    """The `count` nearest rows of each target row, nearest first, of equally near ones the lower."""
    return [in_turns(column[:, None], {"most": count}) for column in cosines(vectors, targets).T]


def crowding(vectors: np.ndarray, fetched: Sequence[int], row: int, most: int, sigma: float) -> float:
    """The sum of 1 - |x - y|^2 / sigma^2, where that is above 0, over the `most` nearest of the fetched rows; >= 1."""
    u = unit(vectors)
    terms = sorted((1 - np.sum((u[row] - u[other]) ** 2) / sigma**2 for other in fetched), reverse=True)
    return max(1.0, sum(max(0.0, term) for term in terms[:most]))


def transport(distances: np.ndarray, densities: np.ndarray, alpha: float, scale: float) -> tuple[float, np.ndarray]:
    """TSDS's lowest objective and a plan [M, K] that reaches it: a linear programme over gamma and its maximum."""
    rows, width = distances.shape
    size = rows * width
    price = np.append(alpha / scale * distances.ravel(), (1 - alpha) * rows)
    spent = np.zeros((rows, size + 1))
    for row in range(rows):
        spent[row, row * width : (row + 1) * width] = 1
    below = np.hstack([np.diag(densities.ravel()), -np.ones((size, 1))])
    found = linprog(price, A_ub=below, b_ub=np.zeros(size), A_eq=spent, b_eq=np.full(rows, 1 / rows))
    assert found.success, found.message
    return float(found.fun), found.x[:-1].reshape(rows, width)


def selectit_token(probabilities: Sequence[float]) -> float:
    """Base score times the mean of |P'(base) - P'(s)| over the other four."""
    shares = [p / sum(probabilities) for p in probabilities]
    rounded = np.round(shares, 5).tolist()
    base = rounded.index(max(rounded))
    return (base + 1) * sum(abs(shares[base] - share) for share in shares) / 4


def selectit_sentence(scores: Sequence[float], a: float) -> float:
    """Mean over prompts, less where they disagree."""
    mean = sum(scores) / len(scores)
    return mean / (1 + a * math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores)))


def selectit(probabilities: np.ndarray, parameters: Sequence[int], a: float) -> list[float]:
    """From probabilities [models, n, K, 5] to the weighted mean over models, [n]."""
    return [
        sum(
            count / sum(parameters) * selectit_sentence([selectit_token(p) for p in of_model[row]], a)
            for count, of_model in zip(parameters, probabilities, strict=True)
        )
        for row in range(probabilities.shape[1])
    ]


def fishersft(blocks: Sequence[np.ndarray], count: int) -> list[int]:
    """Add the row with which log det(I + sum of all X'X) is the largest, computed anew for each."""
    picks: list[int] = []
    while len(picks) < count:
        rest = [row for row in range(len(blocks)) if row not in picks]
        sums = [np.eye(blocks[0].shape[1]) + sum(blocks[i].T @ blocks[i] for i in [*picks, row]) for row in rest]
        volumes = [float(np.linalg.slogdet(total)[1]) for total in sums]
        picks.append(next(row for row, v in zip(rest, volumes, strict=True) if v >= max(volumes) - 1e-12))
    return picks
