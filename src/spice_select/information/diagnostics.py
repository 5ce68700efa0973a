"""The paper's statements looked at on a selection that was made: interaction, half-life, Theorem 4.

Contract: pure functions of features and of what `Selection` records; float64.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from spice_select.information.features import FeatureRows
from spice_select.information.validation import GramLike, read_gram, spectrum


class Theorem4(NamedTuple):
    """Steps looked at, those that meet the theorem's condition, and those of them at which its bound held."""

    steps: int
    condition: int
    held: int


def gram_features(gram: GramLike) -> Tensor:
    """Vectors [m, m] float64 whose inner products are the Gram matrix, directions of no extent left out: [m, r]."""
    eigen = spectrum(read_gram(gram))
    present = eigen.values > 0
    return eigen.vectors[:, present] * eigen.values[present].sqrt()


def half_life(gains: Sequence[float]) -> int | None:
    """Picks until a gain is at most half the first one's: the number of picks before it. None where none is."""
    if not gains:
        return None
    return next((step for step, gain in enumerate(gains) if gain <= gains[0] / 2), None)


def theorem4(features: FeatureRows, squares: Tensor, picks: Sequence[int], epsilon: Tensor, alpha: float) -> Theorem4:
    """Look at every pick x but the first, S the picks before it, for Theorem 4's condition and bound.

    With rho = alpha |F_S| and C = 1 / (1 - rho - alpha max|g|^2 rho), the condition is rho < 1 and a positive
    denominator, and the bound |epsilon_x(S)| <= C alpha^2 sum_{y in S} <g_x, g_y>^2 / (1 + alpha |g_x|^2).

    Args:
        features: rows that were chosen from, as the choice saw them.
        squares: [n] their |g|^2.
        picks: row numbers in the order of picking.
        epsilon: [n] of each row as `Selection` records it.
        alpha: absolute.

    """
    reach = 1.0 + alpha * float(squares.max()) if len(squares) else 1.0
    before = torch.zeros(0, features.dim, dtype=torch.float64, device=features.device)
    condition = held = 0
    for step, pick in enumerate(picks):
        vector = features.take(torch.tensor([pick], device=features.device))
        if step:
            # S only grows and rho with it: once the condition fails it fails for good.
            remainder = 1.0 - alpha * _largest_eigenvalue(before) * reach
            if remainder <= 0.0:
                break
            condition += 1
            products = (before @ vector[0]).square().sum()
            bound = alpha**2 * float(products) / (1.0 + alpha * float(squares[pick])) / remainder
            held += abs(float(epsilon[pick])) <= bound * (1 + 1e-9) + 1e-12
        before = torch.cat([before, vector])
    return Theorem4(max(len(picks) - 1, 0), condition, held)


def _largest_eigenvalue(vectors: Tensor) -> float:
    small = vectors @ vectors.T if len(vectors) <= vectors.shape[1] else vectors.T @ vectors
    return float(cast(Tensor, torch.linalg.eigvalsh(small))[-1])
