"""Groups of nearly equal directions among n rows, without an n x n matrix and without all rows in memory.

Contract: exact float64 cosines decide; where rows are long and many, a random projection to few numbers decides which
pairs are looked at.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from spice_select.information.features import FeatureRows, block_bounds

SKETCH = 256
"""Numbers that long rows are compared by first."""

_BLOCK = 2048


def similar_groups(features: FeatureRows, least: float) -> list[tuple[list[int], float]]:
    """Rows linked by cosines of at least `least`, each group with the lowest cosine that links it.

    A row belongs to one group at most: who is linked to a member is a member. Rows of length zero have no direction
    and belong to none. Groups stand in the order of their first rows.

    Args:
        features: n rows of d numbers.
        least: above 0, at most 1.

    """
    parent = list(range(features.rows))
    links = list(similar_pairs(features, least))
    for one, other, _ in links:
        parent[_root(parent, other)] = _root(parent, one)
    groups: dict[int, set[int]] = {}
    lowest: dict[int, float] = {}
    for one, other, cosine in links:
        root = _root(parent, one)
        groups.setdefault(root, set()).update((one, other))
        lowest[root] = min(lowest.get(root, 1.0), cosine)
    return sorted((sorted(members), lowest[root]) for root, members in groups.items())


def similar_pairs(features: FeatureRows, least: float) -> Iterator[tuple[int, int, float]]:
    """Pairs i < j of rows with a cosine of at least `least`, and it."""
    small, bar = _comparable(features, least)
    for start in range(0, features.rows, _BLOCK):
        block = small[start : start + _BLOCK]
        for first in range(start, features.rows, _BLOCK):
            near = (block @ small[first : first + _BLOCK].T >= bar).nonzero()
            pairs = near + torch.tensor([start, first], device=near.device)
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            for low in range(0, len(pairs), _BLOCK):
                yield from _verified(features, pairs[low : low + _BLOCK], least)


def _comparable(features: FeatureRows, least: float) -> tuple[Tensor, float]:
    """Directions [n, s] float32, of the rows or of their sketches, and the cosine from which pairs are looked at."""
    if features.dim <= 4 * SKETCH:
        whole = [_directions(features.block(*bounds)) for bounds in block_bounds(features)]
        return torch.cat(whole), least - 1e-5
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(features.dim, SKETCH, generator=generator, dtype=torch.float64).to(features.device)
    sketches = [_directions(features.block(*bounds) @ axes) for bounds in block_bounds(features)]
    # A cosine c comes out with a deviation of about (1 - c^2) / sqrt(SKETCH); six of them are allowed for.
    return torch.cat(sketches), least - 6 * (1 - least**2) / SKETCH**0.5 - 1e-3


def _directions(rows: Tensor) -> Tensor:
    lengths = cast(Tensor, rows.norm(dim=1, keepdim=True))
    return torch.where(lengths > 0, rows / lengths, 0.0).float()


def _verified(features: FeatureRows, pairs: Tensor, least: float) -> Iterator[tuple[int, int, float]]:
    one, other = features.take(pairs[:, 0]), features.take(pairs[:, 1])
    lengths = cast(Tensor, one.norm(dim=1)) * cast(Tensor, other.norm(dim=1))
    cosines = cast("list[float]", ((one * other).sum(dim=1) / lengths).clamp(max=1.0).tolist())
    for (i, j), cosine in zip(cast("list[list[int]]", pairs.tolist()), cosines, strict=True):
        if cosine >= least - 1e-12:
            yield i, j, cosine


def _root(parent: list[int], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row
