"""Nearly equal directions among n rows, without an n x n matrix and all rows in memory.

Contract: exact float64 cosines decide; a random projection of long rows to few dimensions says which pairs to compute.
"""

from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor

from spice_select.information.features import FeatureRows, own_blocks

SKETCH = 256
"""Dimensions of the random projection in which long rows are compared first."""

_BLOCK = 2048


def similar_groups(features: FeatureRows, least: float) -> list[tuple[list[int], float]]:
    """Rows linked by cosines of at least `least` in (0, 1], each group with the lowest cosine of a link that made it.

    Who is linked to a member is a member, so a row belongs to one group at most; rows of length zero have no direction
    and belong to none. Groups are in the order of their first rows. The pairs inside a group are not computed again,
    so many copies of one row cost little.
    """
    return _linked(features, _likely_pairs(*_comparable(features, least)), least)


def groups_among(features: FeatureRows, pairs: Tensor, least: float) -> list[tuple[list[int], float]]:
    """As `similar_groups`, but only `pairs` [p, 2] of rows may be linked."""
    return _linked(features, [pairs], least)


def _linked(features: FeatureRows, likely: Iterable[Tensor], least: float) -> list[tuple[list[int], float]]:
    groups = _Groups(features.rows)
    for pairs in likely:
        for start in range(0, len(pairs), _BLOCK):
            part = groups.apart(pairs[start : start + _BLOCK])
            for one, other, cosine in _verified(features, part, least):
                groups.join(one, other, cosine)
    return groups.result()


class _Groups:
    """Disjoint sets of rows, and the lowest cosine that joined each."""

    def __init__(self, rows: int) -> None:
        self._parent = list(range(rows))
        self._lowest = [1.0] * rows

    def apart(self, pairs: Tensor) -> Tensor:
        """Those of `pairs` [p, 2] whose rows are not in one group yet."""
        listed = cast("list[list[int]]", pairs.tolist())
        return pairs[[place for place, (one, other) in enumerate(listed) if self._root(one) != self._root(other)]]

    def join(self, one: int, other: int, cosine: float) -> None:
        """Make one group of the groups of two rows."""
        kept, gone = self._root(one), self._root(other)
        if kept != gone:
            self._parent[gone] = kept
            self._lowest[kept] = min(self._lowest[kept], self._lowest[gone], cosine)

    def result(self) -> list[tuple[list[int], float]]:
        """The groups of two rows or more."""
        members: dict[int, list[int]] = {}
        for row in range(len(self._parent)):
            members.setdefault(self._root(row), []).append(row)
        return sorted((rows, self._lowest[root]) for root, rows in members.items() if len(rows) > 1)

    def _root(self, row: int) -> int:
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row


def _likely_pairs(small: Tensor, bar: float) -> Iterator[Tensor]:
    """Pairs i < j [p, 2] of directions with a cosine of at least `bar`, block by block."""
    for start in range(0, len(small), _BLOCK):
        block = small[start : start + _BLOCK]
        for first in range(start, len(small), _BLOCK):
            near = (block @ small[first : first + _BLOCK].T >= bar).nonzero()
            pairs = near + torch.tensor([start, first], device=near.device)
            yield pairs[pairs[:, 0] < pairs[:, 1]]


def _comparable(features: FeatureRows, least: float) -> tuple[Tensor, float]:
    """Directions [n, s] float32, of the rows or of their sketches, and the cosine from which pairs are verified."""
    if features.dim <= 4 * SKETCH:
        whole = [_directions(block) for _, block in own_blocks(features)]
        return torch.cat(whole), least - 1e-5
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(features.dim, SKETCH, generator=generator, dtype=torch.float64).to(features.device)
    sketches = [_directions(block @ axes) for _, block in own_blocks(features)]
    # A cosine c comes out with a deviation of about (1 - c^2) / sqrt(SKETCH); six of them are allowed for.
    return torch.cat(sketches), least - 6 * (1 - least**2) / SKETCH**0.5 - 1e-3


def _directions(rows: Tensor) -> Tensor:
    lengths = cast(Tensor, rows.norm(dim=1, keepdim=True))
    return torch.where(lengths > 0, rows / lengths, 0.0).float()


def _verified(features: FeatureRows, pairs: Tensor, least: float) -> Iterator[tuple[int, int, float]]:
    if not len(pairs):
        return
    one, other = features.take(pairs[:, 0]), features.take(pairs[:, 1])
    lengths = cast(Tensor, one.norm(dim=1)) * cast(Tensor, other.norm(dim=1))
    cosines = cast("list[float]", ((one * other).sum(dim=1) / lengths).clamp(max=1.0).tolist())
    for (i, j), cosine in zip(cast("list[list[int]]", pairs.tolist()), cosines, strict=True):
        if cosine >= least - 1e-12:
            yield i, j, cosine
