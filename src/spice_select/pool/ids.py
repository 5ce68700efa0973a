"""Names made unique without a set of them all: 64-bit hashes tell which may be equal, and only those are compared."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def unique_suffixes(count: int, name: Callable[[int], str], hashed: Callable[[str], int] = hash) -> NDArray[np.int32]:
    """What makes each name unique: the second and later of the same get the first free of `-2`, `-3`, ...

    Args:
        count: of the names.
        name: each as it is wanted, by its place.
        hashed: to 64 bits; how well it spreads decides the time, not the result.

    Returns:
        [n] the number to append, 0 where the name stays. A number is free where no name is wanted that ends in it.

    """
    hashes = np.fromiter((hashed(name(place)) for place in range(count)), np.int64, count)
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    suffixes = np.zeros(count, np.int32)

    def is_wanted(text: str) -> bool:
        first, stop = np.searchsorted(hashes, hashed(text), "left"), np.searchsorted(hashes, hashed(text), "right")
        return any(name(place) == text for place in order[first:stop].tolist())

    for first, stop in _runs(hashes):
        following: dict[str, int] = {}
        for place in order[first:stop].tolist():  # in the order of the names, as the sort is stable
            text = name(place)
            if text not in following:
                following[text] = 2
                continue
            suffix = following[text]
            while is_wanted(f"{text}-{suffix}"):
                suffix += 1
            suffixes[place], following[text] = suffix, suffix + 1
    return suffixes


def _runs(ordered: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Where equal numbers stand, [first, stop) of each run of at least two."""
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not len(same):
        return []
    runs = np.split(same, np.flatnonzero(np.diff(same) > 1) + 1)
    return [(int(run[0]), int(run[-1]) + 2) for run in runs]
