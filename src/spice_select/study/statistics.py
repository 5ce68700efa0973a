"""Means over seeds with t intervals, and paired differences to the baseline. Pure functions."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t at 0.975 for 1 to 30 degrees of freedom (any table); beyond, the last serves, slightly wide."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the half width of its 95 % interval; infinite for a single value."""

    mean: float
    half: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign of the mean is settled at 95 %."""
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if math.isinf(self.half) else f"{self.mean:.4f} ± {self.half:.4f}"


def interval(values: Sequence[float]) -> Interval:
    """Mean of at least one value, with Student's t interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, math.inf)
    quantile = T_975[min(len(values) - 1, len(T_975)) - 1]
    return Interval(mean, quantile * statistics.stdev(values) / math.sqrt(len(values)))


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Interval | None:
    """Interval of the differences at the seeds that both have; None where there is none."""
    common = sorted(set(values) & set(baseline))
    return interval([values[seed] - baseline[seed] for seed in common]) if common else None
