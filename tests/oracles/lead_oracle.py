"""LEAD from its definition: obviously correct, and slow."""

import math
from collections.abc import Iterator

import numpy as np


def chances(weights: dict[int, float], exploration: float) -> dict[int, float]:
    """EXP3 among these arms."""
    total = sum(weights.values())
    return {arm: (1 - exploration) * w / total + exploration / len(weights) for arm, w in weights.items()}


def drop(d_c: float, d_p: float, cosine: float, rate: float) -> float:
    """The paper's dL, term by term."""
    a = math.sqrt(d_c * d_p) * cosine
    b = (d_p - a) / (d_c + d_p - 2 * a) if d_c + d_p != 2 * a else 0.0
    return rate * (b**2 * d_c + (1 - b) ** 2 * d_p + 2 * b * (1 - b) * math.sqrt(d_c * d_p) * cosine)


def rounds(
    clusters, sources, losses, learner, rate, seed, *, exploration, share, most_uses
) -> Iterator[tuple[int, list, list]]:
    """Cluster, rows and new rows of each round; the learner's losses are multiples of 1 / 2^16."""
    utility = dict(enumerate(losses))
    uses = dict.fromkeys(utility, 0)
    weights = dict.fromkeys(clusters, 1.0)
    first, rewards, previous = {}, [], None
    generator = np.random.default_rng([seed, 3])

    def still_open(cluster: int) -> list[int]:
        return [
            row for row in utility if clusters[row] == cluster and uses[row] < most_uses and utility[row] < math.inf
        ]

    while arms := sorted({cluster for cluster in weights if still_open(cluster)}):
        p, point = chances({arm: weights[arm] for arm in arms}, exploration), generator.random()
        drawn = next((arm for i, arm in enumerate(arms) if point < sum(p[a] for a in arms[: i + 1])), arms[-1])
        rows = []
        for source in {sources[row] for row in still_open(drawn)}:
            own = sorted((row for row in still_open(drawn) if sources[row] == source), key=lambda r: (-utility[r], r))
            rows += own[: max(1, math.floor(share * len(own) + 1e-9))]
        rows.sort(key=lambda row: (-utility[row], row))
        now = dict(zip(rows, learner.losses(rows), strict=True))
        for row in rows:
            if not math.isfinite(now[row]):
                utility[row] = math.inf
        rows = [row for row in rows if math.isfinite(now[row])]
        new = [row for row in rows if not uses[row]]
        for row in rows:
            uses[row] += 1
        yield drawn, rows, new
        if not rows:
            continue
        d_l = 0.0
        if previous is not None:
            d_p, direction = previous
            d_l = rate * d_p
            if drawn in first:
                d_c, other = first[drawn]
                lengths = np.linalg.norm(other) * np.linalg.norm(direction)
                d_l = drop(d_c, d_p, float(other @ direction / lengths) if lengths else 0.0, rate)
        d_l = round(d_l * 2**40) / 2**40
        change = learner.train(rows).numpy()
        after = dict(zip(rows, learner.losses(rows), strict=True))
        drops = [now[row] - after[row] for row in rows if math.isfinite(after[row])]
        previous = max(0.0, sum(drops) / max(1, len(drops))), change
        first.setdefault(drawn, previous)
        reward = sum(utility[row] - (now[row] - d_l) for row in rows) / len(rows)
        utility |= {row: now[row] - d_l for row in rows}
        rewards.append(reward)
        low, high = min(rewards), max(rewards)
        r = 2 * (reward - low) / (high - low) - 1 if high > low else 0.0
        weights[drawn] *= math.exp(exploration * r / (len(arms) * p[drawn]))
