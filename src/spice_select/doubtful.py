"""Picks to read before training: those that oppose the target, and those whose loss is far above those of their source.

Losses are those of the warmed-up proxy; a high one can mean a wrong answer, or one that is merely unlike the others.
The fence is Tukey's (Exploratory Data Analysis, 1977).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spice_select.choices import PoolRecord

OPPOSED = 0.5  # a pick opposes the target where its conflict with it is above this
LEAST_ROWS = 8  # sources with fewer rows are not judged by themselves


class Doubt(NamedTuple):
    """A pick, by its example index, whose value is above the limit."""

    row: int
    value: float  # conflict with the target in [0, 1], or loss in nats per token
    limit: float


class Doubtful(NamedTuple):
    """Doubtful picks, those farthest above their limit first."""

    opposed: list[Doubt] | None  # None without a target
    high_loss: list[Doubt] | None  # None where no loss is known


def doubtful_picks(sources: Sequence[str], records: Sequence[PoolRecord]) -> Doubtful:
    """The doubtful among the picks of `records`; `sources` [n] are those of all usable rows."""
    conflicts, losses = np.full((2, len(sources)), np.nan)
    for record in records:
        if record.target is not None:
            conflicts[record.rows] = record.target.conflict
        if record.measures is not None and record.measures.loss is not None:
            losses[record.rows] = record.measures.loss
    picks = sorted(row for record in records for row in record.picked_rows)
    against = _above(conflicts, np.full(len(sources), OPPOSED), picks)
    return Doubtful(against, _above(losses, upper_fences(losses, sources), picks))


def upper_fences(losses: NDArray[np.float64], sources: Sequence[str]) -> NDArray[np.float64]:
    """Q3 + 1.5 (Q3 - Q1) of the losses of each row's source, [n] nats; NaN where the loss, [n], is NaN (unknown).

    Quartiles are interpolated linearly. Where fewer than `LEAST_ROWS` losses of a source are known, all n rows count.
    """
    fences, groups = np.full(len(losses), np.nan), dict[str, list[int]]()
    known: list[int] = np.flatnonzero(~np.isnan(losses)).tolist()
    for row in known:
        groups.setdefault(sources[row], []).append(row)
    large = [rows for rows in groups.values() if len(rows) >= LEAST_ROWS]
    for rows in [known, *large] if known else []:  # the fence of a large source replaces that of all rows
        lower, upper = np.percentile(losses[rows], [25, 75])
        fences[rows] = upper + 1.5 * (upper - lower)
    return fences


def _above(values: NDArray[np.float64], limits: NDArray[np.float64], picks: Sequence[int]) -> list[Doubt] | None:
    if np.isnan(values).all():
        return None
    found = [Doubt(row, float(values[row]), float(limits[row])) for row in picks if values[row] > limits[row]]
    return sorted(found, key=lambda doubt: doubt.limit - doubt.value)
