"""Rows of similar length put together so that padding is small and a batch's size in tokens is bounded."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spice_select.errors import ConfigError

PASS_OVERHEAD = 64
"""Tokens whose time one more pass takes on a CPU, about."""


def batches_within(lengths: Sequence[int], batch_tokens: int, overhead: int = PASS_OVERHEAD) -> list[list[int]]:
    """Cut rows, in order of length, into batches with the smallest sum of padded tokens and `overhead` a batch.

    `batch_tokens` is the most tokens a batch may hold, padding included: its rows times the longest of `lengths`; a
    row longer than that is a batch of its own. `overhead` is in tokens whose time one more pass takes.

    Returns indices into `lengths`, each exactly once, from the longest to the shortest inside a batch, ties by index;
    the largest batch comes first, so that a run that does not fit in memory fails at once. Raises `ConfigError` if the
    budget is below 1.
    """
    if batch_tokens < 1:
        raise ConfigError(f"The token budget of a batch must be at least 1, not {batch_tokens}.")
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    widths = np.array([max(1, lengths[i]) for i in order], dtype=np.int64)
    starts = _best_starts(widths, batch_tokens, overhead)
    cuts: list[tuple[int, int]] = []
    stop = len(order)
    while stop:
        cuts.append((int(starts[stop]), stop))
        stop = int(starts[stop])
    cuts.sort(key=lambda cut: (-(cut[1] - cut[0]) * int(widths[cut[0]]), cut))
    return [order[start:stop] for start, stop in cuts]


def _best_starts(widths: npt.NDArray[np.int64], batch_tokens: int, overhead: int) -> npt.NDArray[np.int64]:
    """Where the last batch of the best cut of the first j rows starts, for every j; `widths` fall."""
    rows = len(widths)
    cost = np.zeros(rows + 1, dtype=np.int64)
    starts = np.zeros(rows + 1, dtype=np.int64)
    room = np.maximum(1, batch_tokens // widths)  # rows that a batch may hold whose longest row is this one
    first = 0  # a batch that ends before row j may start here at the earliest
    for j in range(1, rows + 1):
        while first + room[first] < j:
            first += 1
        candidates = np.arange(first, j)
        costs = cost[first:j] + (j - candidates) * widths[first:j] + overhead
        best = int(costs.argmin())
        cost[j], starts[j] = costs[best], first + best
    return starts
