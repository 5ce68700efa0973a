"""What a benchmark reports."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One benchmark's figure.

    Attributes:
        task: its name in `BENCHMARKS`.
        metric: what `value` is, e.g. `acc_norm`.
        value: mean of the metric over the items, from 0 to 1.
        stderr: its standard error, s / sqrt(items); None for a single item.
        items: how many items were scored.
        shots: worked examples before each item.
        others: further metrics over the same items.
        note: what a reader of the figure has to know.

    """

    task: str
    metric: str
    value: float
    stderr: float | None
    items: int
    shots: int
    others: Mapping[str, float] = field(default_factory=dict[str, float])
    note: str = ""


def mean_and_error(scores: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, sqrt(sum (x - mean)^2 / (n - 1) / n); no error for one score."""
    mean = math.fsum(scores) / len(scores)
    if len(scores) < 2:
        return mean, None
    variance = math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1)
    return mean, math.sqrt(variance / len(scores))
