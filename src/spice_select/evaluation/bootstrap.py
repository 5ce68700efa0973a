"""Bootstrap intervals of means over rows that come from several sources. Numbers only: no model, no files.

Rows are resampled with replacement within each source, so every resample keeps the sources' sizes; the sources
themselves are taken as given. Intervals hold the central 95 % of the resampled means (Efron, 1979), widened as
Student's t is wider than a normal: plain percentiles of 5 rows would cover the truth in 82 of 100 cases. They say how
far the mean would move with other rows of the same sources, not with another training run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from spice_select.errors import ConfigError

LEVEL = 0.95
RESAMPLES = 2000
DRAWS_AT_ONCE = 1 << 22
"""Rows drawn at once; bounds the memory, never the result."""

Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A 95 % interval, in the unit of the mean it belongs to."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Macro mean of (first model's loss - second model's loss) over the same rows; below zero, the first is better."""

    macro: float
    interval: Interval | None  # None where a source has a single row


def source_means(groups: Mapping[str, Sequence[float]], resamples: int, seed: int) -> dict[str, Floats | None]:
    """Resampled and widened means of each source: [resamples] by name, each from a random stream of its own.

    None for a source with one row, which does not show how rows of that source differ. Raises `ConfigError` where
    `resamples` is below 1, `seed` is negative, or there is no row.
    """
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1, not {resamples}.")
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, not {seed}.")
    if not groups:
        raise ConfigError("there is no row to take a mean over.")
    return {
        name: _widened_means(groups[name], resamples, np.random.default_rng([seed, i]))
        for i, name in enumerate(sorted(groups))
    }


def _widened_means(values: Sequence[float], resamples: int, generator: np.random.Generator) -> Floats | None:
    """Means of resamples, their deviations times sqrt(n / chi2), chi2 drawn with n - 1 degrees of freedom.

    A resample spreads sqrt((n - 1) / n) too little, and the drawn chi2 / (n - 1) is the doubt about the spread itself:
    of normal means this makes Student's t, and draws of several sources add up without a rule for its degrees.
    Simulated coverage: one source of 5 normal rows 95 %, of 5 exponential rows 88 %; three such sources 97 % and 94 %.
    """
    count = len(values)
    if count < 2:
        return None
    ordered = np.sort(np.asarray(values, dtype=np.float64))  # so that the order of rows makes no difference
    block = max(1, DRAWS_AT_ONCE // count)
    sizes = [(min(block, resamples - first), count) for first in range(0, resamples, block)]
    means = np.concatenate([ordered[generator.integers(0, count, size=size)].mean(axis=1) for size in sizes])
    widths = np.sqrt(count / generator.chisquare(count - 1, size=resamples))
    return ordered.mean() + (means - ordered.mean()) * widths


def percentile_interval(means: Floats | None) -> Interval | None:
    """The central 95 % of resampled means; None without them."""
    if means is None:
        return None
    tail = (1 - LEVEL) / 2
    low, high = cast(list[float], np.quantile(means, [tail, 1 - tail]).tolist())
    return Interval(low, high)


def macro_interval(means: Mapping[str, Floats | None]) -> Interval | None:
    """Interval of the mean of the sources' means; every source counts the same, so one without means leaves none."""
    known = [draws for draws in means.values() if draws is not None]
    return percentile_interval(np.mean(known, axis=0)) if len(known) == len(means) else None


def by_source(values: Mapping[str, float], sources: Mapping[str, str]) -> dict[str, list[float]]:
    """Group values by the source of their id."""
    groups: dict[str, list[float]] = {}
    for name, value in values.items():
        groups.setdefault(sources[name], []).append(value)
    return groups


def macro_mean(groups: Mapping[str, Sequence[float]]) -> float:
    """Mean of the sources' means."""
    return float(np.mean([np.mean(values) for values in groups.values()]))


def paired_difference(
    losses_a: Mapping[str, float],
    losses_b: Mapping[str, float],
    sources: Mapping[str, str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Compare two models by their losses of the same rows, by row id; `sources` names each row's source.

    Pairing removes what makes a row hard for both. Raises `ConfigError` where the ids differ, and as `source_means`.
    """
    if losses_a.keys() != losses_b.keys():
        odd = sorted(losses_a.keys() ^ losses_b.keys())
        raise ConfigError(f"the two models were not evaluated on the same rows: {len(odd):,} ids differ ({odd[0]}).")
    groups = by_source({name: loss - losses_b[name] for name, loss in losses_a.items()}, sources)
    return PairedDifference(macro_mean(groups), macro_interval(source_means(groups, resamples, seed)))
