"""The paper's statements looked at on a selection that was made: interaction, half-life, Theorem 4.

Contract: pure functions of features and of what `Selection` records; float64.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from spice_select.information.features import FeatureRows
from spice_select.information.validation import GramLike, read_gram, spectrum

CHECKED = 200
"""Most steps at which Theorem 4's bound is looked at; of more, these are spread over all and stand for them."""


class Theorem4(NamedTuple):
    """Steps, those that meet the theorem's condition, and those of them at which its bound held."""

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
    if not picks:
        return Theorem4(0, 0, 0)
    reach = 1.0 + alpha * float(squares.max())
    vectors = features.take(torch.tensor(picks, device=features.device))

    def remainder(step: int) -> float:
        """The denominator of C before pick `step`; it falls as S grows."""
        return 1.0 - alpha * _largest_eigenvalue(vectors[:step]) * reach

    met = _first(range(1, len(picks)), lambda step: remainder(step) <= 0.0) - 1
    held = 0
    for step in _spread(met):
        products = float((vectors[:step] @ vectors[step]).square().sum())
        bound = alpha**2 * products / (1.0 + alpha * float(squares[picks[step]])) / remainder(step)
        held += abs(float(epsilon[picks[step]])) <= bound * (1 + 1e-9) + 1e-12
    looked_at = len(_spread(met))
    return Theorem4(len(picks) - 1, met, held if looked_at == met else round(held * met / looked_at))


def _first(steps: range, fails: Callable[[int], bool]) -> int:
    """The first of `steps` that fails where all after it fail too; the end where none does. By bisection."""
    low, high = steps.start, steps.stop
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) else (middle + 1, high)
    return low


def _spread(met: int) -> list[int]:
    """Steps 1 to `met`, or `CHECKED` of them."""
    count = min(met, CHECKED)
    return [1 + place * met // count for place in range(count)]


def _largest_eigenvalue(vectors: Tensor) -> float:
    if not vectors.shape[1]:
        return 0.0  # nothing but zero gradients
    small = vectors @ vectors.T if len(vectors) <= vectors.shape[1] else vectors.T @ vectors
    return float(cast(Tensor, torch.linalg.eigvalsh(small))[-1])
