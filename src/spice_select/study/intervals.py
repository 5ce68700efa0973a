"""Means over seeds or targets with Student's t intervals, paired differences, and Holm's correction for many of them.

These intervals are over seeds; those of `evaluation` resample held-out rows of a single model.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from spice_select.errors import SpiceSelectError

try:
    from scipy.special import stdtr, stdtrit
except ImportError as error:
    raise SpiceSelectError(
        f"a study needs SciPy, which cannot be imported ({error}).\nRun: pip install 'spice-select[study]'"
    ) from error

LEVEL = 0.05
"""A difference whose adjusted p is below it has a star."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and the half width of its 95 % interval; None for a single value, whose interval is unbounded."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.half is None else f"{self.mean:.4f} ± {self.half:.4f}"


@dataclass(frozen=True, slots=True)
class Difference(Mean):
    """A mean of paired differences; `p` of its two-sided t-test, `adjusted` by Holm; None where not tested."""

    p: float | None
    adjusted: float | None = None

    def __str__(self) -> str:
        text = Mean.__str__(self)
        if self.adjusted is None:
            return text
        p = "p < 0.001" if self.adjusted < 0.001 else f"p {self.adjusted:.3f}"
        return f"{text}, {p}{' *' * (self.adjusted < LEVEL)}"


def interval(values: Collection[float]) -> Mean:
    """Mean of at least one value, with Student's t interval."""
    n = len(values)
    error = statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return Mean(statistics.fmean(values), None if error is None else float(stdtrit(n - 1, 0.975)) * error)


def difference(values: Sequence[float]) -> Difference | None:
    """Interval of differences, and the p of a mean of zero; None where there is none."""
    if not values:
        return None
    found, n = interval(values), len(values)
    if n == 1:
        return Difference(found.mean, found.half, None)
    error = statistics.stdev(values) / math.sqrt(n)
    t = abs(found.mean) / error if error else math.inf if found.mean else 0.0
    return Difference(found.mean, found.half, 2 * float(stdtr(n - 1, -t)))


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Interval of the differences at the seeds that both have; None where there is none."""
    return difference([values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())])


def holm(column: Mapping[str, Difference | None], untested: Collection[str] = ()) -> dict[str, Difference | None]:
    """A column of differences by cell with their p adjusted for all that are tested (Holm 1979)."""
    raw = {
        cell: one.p for cell, one in column.items() if one is not None and one.p is not None and cell not in untested
    }
    found, highest = dict(column), 0.0
    for place, (cell, p) in enumerate(sorted(raw.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(raw) - place)))
        found[cell] = replace(column[cell], adjusted=highest)  # pyright: ignore[reportArgumentType] - one with a p
    return found
