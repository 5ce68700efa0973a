"""The paper's quantities on a run's own gradients: curves over the picks, rivals, correlations, Theorem 4."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from spice_select.choices import Measures, PoolRecord
from spice_select.config import RunConfig
from spice_select.information import (
    RowLimit,
    choose_rows,
    guarantee_factor,
    half_life,
    moments_of,
    random_draws,
    second_moment,
    subset_information,
    theorem4,
)
from spice_select.report.content import BoundCheck, Correlation, Curve, Rival, Theory
from spice_select.report.evidence import PoolEvidence

DRAWS = 20
"""Random subsets of the band that U is compared with."""

POINTS = 400
"""Most points of a curve."""

MOST_WORK = 1e12
"""Rows x picks x numbers of a row above which the choice is not made again without a penalty."""

PAPER = {"gain": -0.79, "|epsilon|": 0.90}
"""Spearman correlations of conflict that the paper reports (Chang et al. 2026)."""


def theory_of(
    records: Sequence[PoolRecord], pools: Iterable[PoolEvidence], config: RunConfig, notes: list[str]
) -> Theory | None:
    """All of it; what needs gradients covers the pools whose gradients are there.

    Args:
        records: of the run.
        pools: those of them with gradients.
        config: of the run.
        notes: told what is left out.

    Returns:
        None where no gradient was computed or nothing was picked.

    """
    measured = [(record, record.measures) for record in records if record.measures is not None and record.picks]
    if not measured:
        return None
    gains = [_of_picks(record, measures.gain) for record, measures in measured]
    half_lives = [half_life(values) for values in gains]
    rivals = _Rivals(config)
    bounds: list[BoundCheck] = []
    for pool in pools:
        rivals.add(pool)
        if pool.given is None:
            bounds.append(_theorem4(pool))
    if rivals.skipped:
        notes.append("The choice was not made again with penalty 0: among so many rows it would take too long.")
    if rivals.pools < len(measured):
        notes.append(f"Other choices are compared with in {rivals.pools:,} of {len(measured):,} candidate pools.")
    information = sum(measures.information for _, measures in measured)
    bound = sum(measures.bound for _, measures in measured)
    curvature = max(measures.curvature for _, measures in measured)
    return Theory(
        gain=curve(gains),
        base=curve([_of_picks(record, measures.base) for record, measures in measured]),
        conflict=curve([_of_picks(record, measures.conflict) for record, measures in measured]),
        half_life=_median(half_lives),
        pools=len(measured),
        information=information,
        compared=rivals.chosen,
        rivals=rivals.result(),
        certificate=information / bound if bound > 0 else 1.0,
        curvature=curvature,
        guarantee=guarantee_factor(curvature),
        correlations=_correlations(measured),
        theorem4=_sum(bounds),
    )


def curve(values: Sequence[Sequence[float]]) -> Curve:
    """Mean and middle 80 % at each step over those of `values` that are as long; at most `POINTS` steps."""
    longest = max(map(len, values))
    steps = sorted({round(float(i)) for i in np.linspace(0, longest - 1, min(longest, POINTS))})
    at = [np.array([line[step] for line in values if len(line) > step]) for step in steps]
    low, high = ([float(np.quantile(column, share)) for column in at] for share in (0.1, 0.9))
    return Curve(steps, [float(column.mean()) for column in at], low, high)


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Rank correlation, ties given their mean rank; None where it is not defined (a constant, fewer than 3 pairs)."""
    if len(one) < 3 or len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return float(pd.Series(one).rank().corr(pd.Series(other).rank()))


def _of_picks(record: PoolRecord, values: Sequence[float]) -> list[float]:
    return [values[place] for place in record.picks]


def _median(half_lives: Sequence[int | None]) -> float | None:
    """The median where at least half of the pools have one, those that have none counting as later."""
    found = sorted(np.inf if value is None else float(value) for value in half_lives)
    median = float(np.median(found))
    return median if np.isfinite(median) else None


def _correlations(measured: Sequence[tuple[PoolRecord, Measures]]) -> list[Correlation]:
    """Of conflict with gain and |epsilon|: over picks that had picks before them, and over the rows left at the end."""
    found: list[Correlation] = []
    for name, rows_of in _MOMENTS.items():
        rows = [(measures, rows_of(record)) for record, measures in measured]
        conflict = [measures.conflict[row] for measures, places in rows for row in places]
        gain = [measures.gain[row] for measures, places in rows for row in places]
        epsilon = [abs(measures.epsilon[row]) for measures, places in rows for row in places]
        for other, values in (("gain", gain), ("|epsilon|", epsilon)):
            value = spearman(conflict, values)
            if value is not None:
                paper = PAPER[other] if name == AT_PICK else None
                found.append(Correlation(f"conflict with {other}, {name}", value, len(conflict), paper))
    return found


def _later_picks(record: PoolRecord) -> list[int]:
    return record.picks[1:]


def _left(record: PoolRecord) -> list[int]:
    picked = set(record.picks)
    return [place for place in range(len(record.rows)) if place not in picked]


AT_PICK = "at each pick"
_MOMENTS: dict[str, Callable[[PoolRecord], list[int]]] = {AT_PICK: _later_picks, "rows left at the end": _left}


@dataclass(slots=True)
class _Rivals:
    """Information of other subsets, added up over pools."""

    config: RunConfig
    draws: torch.Tensor = field(default_factory=lambda: torch.zeros(DRAWS, dtype=torch.float64))
    norms: float = 0.0
    without_penalty: float = 0.0
    chosen: float = 0.0  # U of the picks of the same pools
    pools: int = 0
    skipped: bool = False

    def add(self, pool: PoolEvidence) -> None:
        """Measure them in one more pool."""
        record = pool.record
        assert record.measures is not None
        self.chosen += record.measures.information
        count = len(record.picks)
        generator = torch.Generator().manual_seed(self.config.seed + record.pool)
        self.draws += random_draws(pool.seen, count, pool.alpha, DRAWS, generator, pool.given)
        norms = record.measures.norm
        largest = sorted(range(len(norms)), key=lambda place: (-norms[place], place))[:count]
        before = None if pool.given is None else second_moment(pool.given)
        self.norms += subset_information(pool.seen, torch.tensor(largest), pool.alpha, before)
        self._choose_without_penalty(pool)
        self.pools += 1

    def _choose_without_penalty(self, pool: PoolEvidence) -> None:
        work = pool.seen.rows * len(pool.record.picks) * pool.seen.dim
        self.skipped = self.skipped or work > MOST_WORK
        if self.config.method == "spice" and self.config.penalty > 0 and not self.skipped:
            limit = RowLimit(len(pool.record.picks)) if pool.record.stopped_early else pool.limit
            found = choose_rows(moments_of(pool.seen), limit, pool.alpha, 0.0, None, pool.given)
            self.without_penalty += found.selection.information

    def result(self) -> list[Rival]:
        """Those that were measured; none without a pool."""
        if self.pools == 0:
            return []
        mean, low, high = (float(value) for value in (self.draws.mean(), self.draws.min(), self.draws.max()))
        found = [
            Rival(f"random rows, {DRAWS} draws", mean, low, high),
            Rival("the largest gradients", self.norms, self.norms, self.norms),
        ]
        if self.config.method == "spice" and self.config.penalty > 0 and not self.skipped:
            free = self.without_penalty
            found.append(Rival("the same choice with penalty 0", free, free, free))
        return found


def _theorem4(pool: PoolEvidence) -> BoundCheck:
    assert pool.record.measures is not None
    epsilon = torch.tensor(pool.record.measures.epsilon, dtype=torch.float64)
    return BoundCheck(*theorem4(pool.seen, pool.squares, pool.record.picks, epsilon, pool.alpha))


def _sum(checks: Sequence[BoundCheck]) -> BoundCheck | None:
    steps = sum(check.steps for check in checks)
    if steps == 0:
        return None
    return BoundCheck(steps, sum(check.condition for check in checks), sum(check.held for check in checks))
