"""The rows that may be picked next, held in memory and brought up to date after every pick.

Contract: exact in float64. One product of the held block with two vectors a pick; nothing outside is touched.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Seen(NamedTuple):
    """Rows [b] at one step: numbers, remainders g^T M g, products <g, sum of S>, norms |g|."""

    rows: Tensor
    remainders: Tensor
    products: Tensor
    norms: Tensor


class Frontier:
    """The held rows, as last seen, and their gradients [c, d]."""

    def __init__(self, dim: int, device: torch.device):
        """Hold nothing yet."""
        nothing = torch.zeros(0, dtype=torch.float64, device=device)
        self.seen = Seen(nothing.long(), nothing, nothing, nothing)
        self._vectors = torch.zeros(0, dim, dtype=torch.float64, device=device)

    @property
    def rows(self) -> Tensor:
        """Numbers of the held rows, [c]."""
        return self.seen.rows

    def add(self, seen: Seen, vectors: Tensor) -> None:
        """Hold these rows too, with their gradients [b, d]."""
        self.seen = Seen(*(torch.cat(pair) for pair in zip(self.seen, seen, strict=True)))
        self._vectors = torch.cat([self._vectors, vectors])

    def split(self, order: Tensor, count: int) -> Seen:
        """Keep the first `count` of the places `order` [c] and return the rest."""
        kept, dropped = order[:count], order[count:]
        result = Seen(*(part[dropped] for part in self.seen))
        self.seen = Seen(*(part[kept] for part in self.seen))
        self._vectors = self._vectors[kept]
        return result

    def follow(self, w: Tensor, vector: Tensor) -> None:
        """Bring everything up to date after a pick with this w and gradient, [d] each."""
        met = torch.stack([w, vector]) @ self._vectors.T  # [2, c]
        remainders = (self.seen.remainders - met[0].square()).clamp(min=0.0)
        self.seen = self.seen._replace(remainders=remainders, products=self.seen.products + met[1])
