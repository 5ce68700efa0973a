"""The paper's quantities on a run's own gradients: curves over the picks, rivals, correlations, Theorem 4."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spice_select.choices import Measures, PoolRecord, all_directions
from spice_select.information import Theorem4, choose_rows, half_life, moments_of, theorem4
from spice_select.methods.facts import RowFacts, shuffled
from spice_select.report.content import BALANCED_ROWS, RANDOM_ROWS, Correlation, Curve, Rival, Theory
from spice_select.report.finished_run import FinishedRun, PoolGradients

DRAWS = 20  # random subsets that the picks are compared with
POINTS = 400  # most points of a curve
MOST_WORK = 1e12  # rows x picks x dimensions above which the choice is not repeated without a penalty
PAPER = {"gain": -0.79, "|epsilon|": 0.90}  # correlations of conflict at each pick (Chang et al. 2026)

Measured = Sequence[tuple[PoolRecord, Measures]]


def theory_of(run: FinishedRun, notes: list[str]) -> Theory | None:
    """Evaluate everything; rivals and Theorem 4 only in pools whose gradients are available, as `notes` then says.

    None where no gradient was computed or nothing was picked.
    """
    measured = [(record, record.measures) for record in run.records if record.measures is not None and record.picks]
    if not measured:
        return None
    gains = [_of_picks(record, measures.gain) for record, measures in measured]
    information = sum(measures.information for _, measures in measured)
    bound = sum(measures.bound for _, measures in measured)
    curvature = max(measures.curvature for _, measures in measured)
    # Pools that never reach half the first gain count as later than any other.
    median = float(np.median([np.inf if (picks := half_life(values)) is None else picks for values in gains]))
    if len(run.pools) < len(measured):
        notes.append(f"Other choices are evaluated in {len(run.pools):,} of {len(measured):,} candidate pools.")
    return Theory(
        gain=curve(gains),
        base=curve([_of_picks(record, measures.base) for record, measures in measured]),
        conflict=curve([_of_picks(record, measures.conflict) for record, measures in measured]),
        half_life=median if np.isfinite(median) else None,
        pools=len(measured),
        information=information,
        compared=sum(pool.measures.information for pool in run.pools),
        rivals=_rivals(run, notes) if run.pools else [],
        certificate=information / bound if bound > 0 else 1.0,
        curvature=curvature,
        guarantee=min(guarantees) if (guarantees := _guarantees(measured)) else None,
        all_directions=all_directions([measures for _, measures in measured]),
        correlations=_correlations(measured),
        theorem4=_theorem4([pool for pool in run.pools if pool.given is None]),
    )


def curve(values: Sequence[Sequence[float]]) -> Curve:
    """Mean and middle 80 % at each step over those of `values` that are long enough; at most `POINTS` steps."""
    longest = max(map(len, values))
    steps = sorted({round(float(i)) for i in np.linspace(0, longest - 1, min(longest, POINTS))})
    at = [np.array([line[step] for line in values if len(line) > step]) for step in steps]
    low, high = ([float(np.quantile(column, share)) for column in at] for share in (0.1, 0.9))
    return Curve([step + 1 for step in steps], [float(column.mean()) for column in at], low, high)


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Rank correlation, where ties share their mean rank; None for fewer than 3 pairs or a constant."""
    if len(one) < 3 or len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return float(pd.Series(one).rank().corr(pd.Series(other).rank()))


def _guarantees(measured: Measured) -> list[float]:
    """Of every pool; empty where any pool has none."""
    found = [measures.guarantee for _, measures in measured]
    return [value for value in found if value is not None] if None not in found else []


def _of_picks(record: PoolRecord, values: Sequence[float]) -> list[float]:
    return [values[place] for place in record.picks]


def _correlations(measured: Measured) -> list[Correlation]:
    """Of conflict with gain and |epsilon|: over each pool's picks but the first, and over the rows not picked."""
    moments = {
        "at each pick": [record.picks[1:] for record, _ in measured],
        "rows left at the end": [sorted(set(range(len(record.rows))) - set(record.picks)) for record, _ in measured],
    }
    found: list[Correlation] = []
    for moment, places in moments.items():
        rows = [(measures, i) for (_, measures), some in zip(measured, places, strict=True) for i in some]
        conflict, gain = ([getattr(measures, name)[i] for measures, i in rows] for name in ("conflict", "gain"))
        others = {"gain": gain, "|epsilon|": [abs(measures.epsilon[i]) for measures, i in rows]}
        for name, values in others.items():
            value, paper = spearman(conflict, values), PAPER[name] if moment == "at each pick" else None
            if value is not None:
                found.append(Correlation(f"conflict with {name}, {moment}", value, len(rows), paper))
    return found


def _rivals(run: FinishedRun, notes: list[str]) -> list[Rival]:
    """Other subsets of the same size, in rows or tokens, in the same pools: random rows, largest norms, penalty 0.

    U of random rows is the one that the run recorded; draws of their own give its range.
    """
    config, pools = run.config, run.pools
    draws = torch.stack([pool.random_information(pool.record.picks, DRAWS, config.seed) for pool in pools]).sum(0)
    by_chance = sum(pool.measures.random_information for pool in pools)
    largest = sum(pool.information(_largest(pool)) for pool in pools)
    lowest, highest = min(by_chance, float(draws.min())), max(by_chance, float(draws.max()))
    rivals = [Rival(RANDOM_ROWS, by_chance, lowest, highest)]
    sources = [line.source for line in run.lines]
    if len(set(sources)) > 1:
        balanced = torch.stack([_balanced(pool, sources, config.seed) for pool in pools]).sum(0)
        rivals.append(Rival(BALANCED_ROWS, *map(float, (balanced.mean(), balanced.min(), balanced.max()))))
    rivals.append(Rival(f"the largest {run.noun}s", largest, largest, largest))
    if config.method == "spice" and config.penalty > 0:
        if any(pool.scaled.rows * len(pool.record.picks) * pool.scaled.dim > MOST_WORK for pool in pools):
            notes.append("The choice was not repeated with penalty 0: with so many rows it would take too long.")
        else:
            free = sum(_without_penalty(pool) for pool in pools)
            # For a target rows are chosen by another rule, or with a factor on gains, whatever the penalty.
            name = "a choice by information U alone" if config.target else "the same choice with penalty 0"
            rivals.append(Rival(name, free, free, free))
    return rivals


def _balanced(pool: PoolGradients, sources: Sequence[str], seed: int) -> Tensor:
    """U of random rows whose `sources` (of all rows) take turns, [DRAWS]."""
    own, picks = [sources[row] for row in pool.record.rows], pool.record.picks
    orders = [torch.tensor(shuffled(RowFacts([0] * len(own), seed + draw, sources=own))) for draw in range(DRAWS)]
    found = [pool.information(cast("list[int]", pool.limit.as_much(picks, order).tolist())) for order in orders]
    return torch.tensor(found, dtype=torch.float64)


def _largest(pool: PoolGradients) -> list[int]:
    """The rows of the largest unscaled norms that amount to as much as the picks."""
    order = torch.tensor(pool.measures.largest_norms(len(pool.record.rows)))
    return cast("list[int]", pool.limit.as_much(pool.record.picks, order).tolist())


def _without_penalty(pool: PoolGradients) -> float:
    limit = pool.limit.as_large(pool.record.picks) if pool.record.stopped_early else pool.limit
    found = choose_rows(moments_of(pool.scaled), limit, pool.measures.alpha, 0.0, None, pool.given)
    return found.information


def _theorem4(pools: Sequence[PoolGradients]) -> Theorem4 | None:
    """Summed over pools; None where the condition was met at no pick."""
    total = torch.zeros(3, dtype=torch.int64)
    for pool in pools:
        epsilon = torch.tensor(pool.measures.epsilon, dtype=torch.float64)
        total += torch.tensor(
            theorem4(pool.scaled, pool.squared_norms, pool.record.picks, epsilon, pool.measures.alpha)
        )
    found = Theorem4(*cast("list[int]", total.tolist()))
    return found if found.condition else None
