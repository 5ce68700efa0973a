"""Small selections held against every alternative: certificate, guarantee, and the same picks by every engine.

    python tests/oracles/brute_force.py --instances 4000

Each instance is made from its number: at most ten rows with ties, zeros, duplicates, opposites, near-cancellations,
bfloat16 values and extreme alphas, under a budget of rows, a quota or a budget of cost, with given rows, penalties
and stops. Results are compared with those of plain loops over all subsets; the lazy engine also with the eager one.
"""

import argparse
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mpmath
import numpy as np
import torch

from spice_select.information import CostLimit, GroupLimit, Limit, RowLimit, Selection, TensorFeatures
from spice_select.information.choosing import choose_rows
from spice_select.information.gram_engine import GramEngine
from spice_select.information.greedy import greedy
from spice_select.information.moments import moments_of

ROUNDING = 1e-14  # of alpha max |g|^2, for every gain: docs/numbers.md
CLEAR = 1e-6  # a priority that is so much higher than the next decides for brute force too
CANCELLED = 1e-5  # a mean shorter than this, relative to the rows' root mean square, is zero: docs/numbers.md


@dataclass(frozen=True)
class Instance:
    """One problem: rows [n, d], those given [g, d], alpha, penalty, stop, and a limit."""

    rows: np.ndarray
    given: np.ndarray
    alpha: float
    penalty: float
    stop: float | None
    limit: Limit

    @property
    def reach(self) -> float:
        """The largest alpha |g|^2."""
        return self.alpha * float(np.square(np.concatenate([self.rows, self.given])).sum(axis=1).max())


def make(number: int) -> Instance:
    """The instance of this number."""
    r = random.Random(number)
    rng = np.random.default_rng(number)
    count, width = r.randint(1, 10), r.randint(1, 5)
    rows = _rows(r, rng, count, width)
    given = rng.standard_normal((r.randint(1, 3), width)) if r.random() < 0.25 else np.zeros((0, width))
    largest = float(np.square(rows).sum(axis=1).max()) or 1.0
    alpha = r.choice([0.0, 1e-9, 0.01, 1.0, 1.0, 1.0, 30.0, 1e4, 1e8, 8e13]) / (largest if r.random() < 0.7 else 1.0)
    alpha = min(alpha, 9e13 / max(largest, float(np.square(given).sum(axis=1).max(initial=0.0))))
    penalty = r.choice([0.0, 0.0, 0.0, 0.1, 0.5, 5.0, 100.0])
    stop = r.choice([None, None, None, None, 0.3, 0.9])
    return Instance(rows, given, alpha, penalty, stop, _limit(r, count))


def _rows(r: random.Random, rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    kind = r.choice(["gaussian", "whole", "repeated", "cancelling", "lengths", "bfloat16"])
    rows = rng.standard_normal((count, width))
    if kind == "whole":
        rows = rng.integers(-2, 3, (count, width)).astype(float)
    elif kind == "repeated":
        rows = rows[rng.integers(0, max(1, count // 2), count)] * rng.choice([1.0, 1.0, -1.0, 0.0, 2.0], (count, 1))
    elif kind == "cancelling":
        rows[count // 2 :] = -rows[: count - count // 2] * (1.0 + r.choice([0.0, 1e-12, 1e-7, 1e-6, 1e-3]))
    elif kind == "lengths":
        rows *= 10.0 ** rng.integers(-8, 3, (count, 1))
    elif kind == "bfloat16":
        rows = torch.tensor(rows).bfloat16().double().numpy()
    return rows


def _limit(r: random.Random, count: int) -> Limit:
    kind = r.choice(["rows", "rows", "quota", "cost", "cost"])
    if kind == "cost":
        costs = [r.choice([1, 1, 2, 3, 9, 100, 1000]) for _ in range(count)]
        return CostLimit(torch.tensor(costs, dtype=torch.float64), r.randint(min(costs), sum(costs) + 1))
    if kind == "rows":
        return RowLimit(r.randint(1, count))
    groups = [r.randint(0, 2) for _ in range(count)]
    sizes = [groups.count(group) for group in range(3)]
    floors = [r.randint(0, min(1, size)) for size in sizes]
    ceilings = [r.randint(max(floor, 1), 4) for floor in floors]
    room = sum(map(min, ceilings, sizes))
    most = r.randint(max(1, sum(floors)), room)
    return GroupLimit(most, torch.tensor(groups), floors, ceilings)


def allowed(limit: Limit, count: int) -> list[tuple[int, ...]]:
    """Every subset within a budget of cost, or of the limit's size within a quota."""
    sizes = range(1, count + 1) if isinstance(limit, CostLimit) else range(limit.most, limit.most + 1)
    return [rows for size in sizes for rows in itertools.combinations(range(count), size) if _within(limit, rows)]


def _within(limit: Limit, rows: Sequence[int]) -> bool:
    if isinstance(limit, CostLimit):
        return float(limit.costs[list(rows)].sum()) <= limit.budget
    if isinstance(limit, GroupLimit):
        counts = [sum(int(limit.groups[row]) == group for row in rows) for group in range(len(limit.floors))]
        return all(low <= held <= high for low, held, high in zip(limit.floors, counts, limit.ceilings, strict=True))
    return len(rows) <= limit.most


class Information:
    """U(given + S) - U(given): by eigenvalues, or with 60 digits where alpha |g|^2 leaves float64 too few."""

    def __init__(self, instance: Instance):
        self._rows, self._given, self._alpha = instance.rows, instance.given, instance.alpha
        self._exact = instance.reach > 1e4
        self._known: dict[frozenset[int], float] = {}
        self._before = self._of(())

    def __call__(self, rows: Sequence[int]) -> float:
        key = frozenset(rows)
        if key not in self._known:
            self._known[key] = float(self._of(sorted(key)) - self._before)
        return self._known[key]

    def _of(self, rows: Sequence[int]):
        vectors = np.concatenate([self._given, self._rows[list(rows)]])
        if not self._exact:
            return (
                float(np.log1p(self._alpha * np.linalg.svd(vectors, compute_uv=False) ** 2).sum())
                if len(vectors)
                else 0.0
            )
        with mpmath.workdps(60):
            matrix = mpmath.eye(len(vectors))
            for i, one in enumerate(vectors.tolist()):
                for j, other in enumerate(vectors.tolist()):
                    matrix[i, j] += mpmath.mpf(self._alpha) * mpmath.fdot(one, other)
            return mpmath.log(mpmath.det(matrix)) if len(vectors) else mpmath.mpf(0)


def conflict(instance: Instance, row: int, chosen: Sequence[int]) -> float:
    """max(0, -cos(g_x, mean of given rows and S)), with the paper's 1e-8."""
    held = np.concatenate([instance.given, instance.rows[list(chosen)]])
    if not len(held):
        return 0.0
    mean, vector = held.mean(axis=0), instance.rows[row]
    if np.linalg.norm(mean) <= CANCELLED * math.sqrt(float(np.square(held).sum(axis=1).mean())):
        return 0.0
    cosine = float(vector @ mean) / (float(np.linalg.norm(vector) * np.linalg.norm(mean)) + 1e-8)
    return max(0.0, -cosine)


def expected(instance: Instance, information: Information) -> tuple[list[int], bool] | None:
    """The picks by definition and whether a stop ended them; None where two rows are too close for floating point."""
    picks = _greedy(instance, information, [])
    if picks is None or picks[1] or not isinstance(instance.limit, CostLimit):
        return picks
    scores = {row: _score(instance, information, row, []) for row in _open(instance.limit, len(instance.rows), [])}
    best = max(scores.values())
    total = _total(instance, information, picks[0])
    if abs(best - total) < CLEAR:
        return None
    first = [row for row, value in scores.items() if value >= best - CLEAR]
    if best < total or len(first) > 1:
        return picks if best < total else None
    again = _greedy(instance, information, first)
    if again is None:
        return None
    gap = _total(instance, information, again[0]) - total
    return None if abs(gap) < CLEAR else again if gap > 0 else picks


def _greedy(instance: Instance, information: Information, first: list[int]) -> tuple[list[int], bool] | None:
    chosen, first_gain = list(first), None
    if first:
        first_gain = information(first)
    while True:
        candidates = _open(instance.limit, len(instance.rows), chosen)
        if not candidates or len(chosen) == instance.limit.most:
            return chosen, False
        values = {row: _weighed(instance, _score(instance, information, row, chosen), row) for row in candidates}
        order = sorted(candidates, key=lambda row: (-values[row], row))
        row = order[0]
        if len(order) > 1 and values[row] - values[order[1]] < CLEAR:
            return None
        gain = information([*chosen, row]) - information(chosen)
        if first_gain is not None and instance.stop is not None:
            if abs(gain - instance.stop * first_gain) < CLEAR:
                return None
            if gain <= instance.stop * first_gain:
                return chosen, True
        first_gain = gain if first_gain is None else first_gain
        chosen.append(row)


def _total(instance: Instance, information: Information, picks: list[int]) -> float:
    return sum(_score(instance, information, row, picks[:place]) for place, row in enumerate(picks))


def _score(instance: Instance, information: Information, row: int, chosen: Sequence[int]) -> float:
    gain = information([*chosen, row]) - information(chosen)
    return gain - instance.penalty * conflict(instance, row, chosen)


def _weighed(instance: Instance, score: float, row: int) -> float:
    if not isinstance(instance.limit, CostLimit):
        return score
    share = float(instance.limit.costs.min() / instance.limit.costs[row])
    return score * share if score > 0 else score * (2 - share)


def _open(limit: Limit, count: int, chosen: Sequence[int]) -> list[int]:
    """Rows that may come next: those that leave a selection which can be completed."""
    rest = [row for row in range(count) if row not in chosen]
    if not isinstance(limit, GroupLimit):
        return [row for row in rest if _within(limit, [*chosen, row])]
    whole = allowed(limit, count)
    return [row for row in rest if any({*chosen, row} <= set(rows) for rows in whole)]


def violations(instance: Instance) -> Iterator[str]:
    """Every law that the package's results break on this instance, by name."""
    rows = TensorFeatures(torch.tensor(instance.rows))
    given = TensorFeatures(torch.tensor(instance.given)) if len(instance.given) else None
    moments, information = moments_of(rows), Information(instance)
    selection = choose_rows(moments, instance.limit, instance.alpha, instance.penalty, instance.stop, given)
    slack = 2 * ROUNDING * instance.reach * (len(instance.rows) + 1) + 1e-9
    picks = selection.indices
    if not _within_or_stopped(instance, selection):
        yield "limit"
    if abs(selection.information - information(picks)) > slack:
        yield "information"
    whole = allowed(instance.limit, len(instance.rows))
    if selection.stopped_early and not isinstance(instance.limit, CostLimit):
        whole = [part for rows in whole for part in itertools.combinations(rows, len(picks))]
    optimum = max(map(information, set(whole)))
    if selection.certificate.bound < optimum - 1e-12 * max(1.0, optimum):
        yield "certificate"
    if selection.guarantee is not None and information(picks) < selection.guarantee * optimum - slack:
        yield "guarantee"
    if (selection.guarantee is None) != (instance.penalty > 0 or selection.stopped_early):
        yield "guarantee claimed"
    wanted = expected(instance, information) if slack < CLEAR / 10 else None
    if wanted is not None and wanted != (picks, selection.stopped_early):
        yield "picks"
    if given is None and not isinstance(instance.limit, CostLimit) and picks != _eager(instance):
        yield "identity"


def _within_or_stopped(instance: Instance, selection: Selection) -> bool:
    if isinstance(instance.limit, GroupLimit) and selection.stopped_early:
        return len(selection.indices) <= instance.limit.most
    full = isinstance(instance.limit, CostLimit) or selection.stopped_early
    return _within(instance.limit, selection.indices) and (full or len(selection.indices) == instance.limit.most)


def _eager(instance: Instance) -> list[int]:
    rows = torch.tensor(instance.rows)
    engine = GramEngine(rows @ rows.T, instance.alpha, instance.penalty, instance.limit.most)
    return greedy(engine, instance.limit, instance.stop).rows


def count_violations(numbers: range) -> dict[str, list[int]]:
    """The numbers of the instances that break each law."""
    broken: dict[str, list[int]] = {}
    for number in numbers:
        for law in violations(make(number)):
            broken.setdefault(law, []).append(number)
    return broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=4000)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    numbers = range(given.first, given.first + given.instances)
    kinds = Counter(type(make(number).limit).__name__ for number in numbers)
    print(f"{len(numbers):,} instances: {dict(kinds)}")
    print(f"violations: {count_violations(numbers)}")


if __name__ == "__main__":
    main()
