"""The rows that may be picked next, held in memory and brought up to date after every pick.

Contract: exact in float64. Each pick costs one product of the held block with two vectors; no other row is read.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class RowStates(NamedTuple):
    """Rows [b] at one step: numbers, remainders g^T M g, products <g, sum of S>, norms |g|."""

    rows: Tensor
    remainders: Tensor
    products: Tensor
    norms: Tensor

    def at(self, places: Tensor) -> "RowStates":
        """The states at these places."""
        return RowStates(*(part[places] for part in self))


class ActiveSet:
    """The states of the held rows, and their gradients [c, d]."""

    def __init__(self, dim: int, device: torch.device):
        """Hold nothing yet."""
        nothing = torch.zeros(0, dtype=torch.float64, device=device)
        self.states = RowStates(nothing.long(), nothing, nothing, nothing)
        self._vectors = torch.zeros(0, dim, dtype=torch.float64, device=device)

    def __len__(self) -> int:
        """How many rows are held, c."""
        return len(self._vectors)

    def add(self, states: RowStates, vectors: Tensor) -> None:
        """Hold these rows too, with their gradients [b, d]."""
        self.states = RowStates(*(torch.cat(pair) for pair in zip(self.states, states, strict=True)))
        self._vectors = torch.cat([self._vectors, vectors])

    def keep(self, places: Tensor) -> None:
        """Drop all rows but those at these places."""
        self.states, self._vectors = self.states.at(places), self._vectors[places]

    def update(self, w: Tensor, vector: Tensor) -> None:
        """Bring the states up to date after a pick with this gradient and its w (see `inverse`), [d] each."""
        products = torch.stack([w, vector]) @ self._vectors.T  # [2, c]
        remainders = (self.states.remainders - products[0].square()).clamp(min=0.0)
        self.states = self.states._replace(remainders=remainders, products=self.states.products + products[1])
