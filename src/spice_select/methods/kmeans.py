"""K-means of numbers: exact, by dynamic programming over the sorted values, in O(k n log n).

In an optimal partition each cluster is an interval. With D_k[j] the least sum of squares of the first j values in k
clusters, D_k[j] = min over i of D_{k-1}[i] + SS(i, j), and the best i does not fall as j grows (Wu, 1991): once it is
known for every second j, those between need only be sought between their neighbours.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Spread = Callable[[Ints, Ints], Floats]
"""Starts and stops of intervals -> the sum of squares within each."""


def kmeans(values: Floats, count: int) -> Ints:
    """The cluster of each of n >= 1 finite values, [n], numbered from the lowest.

    Equal values share a cluster, so there are as many as different values where these are fewer than `count`.
    """
    distinct, places, copies = np.unique(values, return_inverse=True, return_counts=True)
    size, centred = len(distinct), distinct - np.average(distinct, weights=copies)
    totals = [np.concatenate([[0.0], np.cumsum(copies * centred**power)]) for power in range(3)]

    def spread(start: Ints, stop: Ints) -> Floats:
        number, total, squares = (sums[stop] - sums[start] for sums in totals)
        return np.maximum(0.0, squares - total**2 / number)

    stops = np.arange(1, size + 1)
    least = np.concatenate([[np.inf], spread(np.zeros_like(stops), stops)])
    cuts: list[Ints] = []
    for clusters in range(2, min(count, size) + 1):
        least, starts = _one_more(least, clusters, spread)
        cuts.append(starts)
    labels, stop = np.zeros(size, dtype=np.int64), size
    for number in range(len(cuts), 0, -1):
        start = int(cuts[number - 1][stop])
        labels[start:stop], stop = number, start
    return labels[places]


def _one_more(least: Floats, clusters: int, spread: Spread) -> tuple[Floats, Ints]:
    """D_k from D_{k-1}, `least` [m + 1], and where the last cluster of the first j values starts, [m + 1]."""
    last = len(least) - 1
    found, starts = np.full(last + 1, np.inf), np.full(last + 1, clusters - 1)
    step = 1 << last.bit_length()
    while step := step // 2:
        stops = np.arange(clusters + step - 1, last + 1, 2 * step)
        if not len(stops):
            continue
        low = np.where(stops - step >= clusters, starts[stops - step], clusters - 1)
        high = np.where(stops + step <= last, starts[np.minimum(stops + step, last)], last)
        high = np.minimum(high, stops - 1)
        widths = high - low + 1
        firsts = np.cumsum(widths) - widths
        tried: Ints = np.arange(int(widths.sum())) - np.repeat(firsts - low, widths)
        sums = least[tried] + spread(tried, np.repeat(stops, widths))
        found[stops] = np.minimum.reduceat(sums, firsts)
        hits = np.flatnonzero(sums == np.repeat(found[stops], widths))
        owners, first_hits = np.unique(np.repeat(np.arange(len(stops)), widths)[hits], return_index=True)
        starts[stops[owners]] = tried[hits[first_hits]]
    return found, starts
