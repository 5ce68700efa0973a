"""The paper's statements checked on a finished selection: half-life and Theorem 4.

Contract: pure functions of features and of what `Selection` records; float64.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from spice_select.information.features import FeatureRows

CHECKED = 200
"""Most steps at which Theorem 4's bound is evaluated; of more steps, so many evenly spaced ones stand for all."""


class Theorem4(NamedTuple):
    """Steps, those that meet the theorem's condition, and those of them at which its bound held."""

    steps: int
    condition: int
    held: int


def half_life(gains: Sequence[float]) -> int | None:
    """Picks until a gain is at most half the first one's: the number of picks before it. None where none is."""
    if not gains:
        return None
    return next((step for step, gain in enumerate(gains) if gain <= gains[0] / 2), None)


def theorem4(
    features: FeatureRows, squared_norms: Tensor, picks: Sequence[int], epsilon: Tensor, alpha: float
) -> Theorem4:
    """Check Theorem 4's condition and bound for every pick x but the first, S being the picks before it.

    With rho = alpha |F_S| and C = 1 / (1 - rho - alpha max|g|^2 rho), the condition is rho < 1 and a positive
    denominator, and the bound |epsilon_x(S)| <= C alpha^2 sum_{y in S} <g_x, g_y>^2 / (1 + alpha |g_x|^2).

    `features` are the pool's n rows as the choice saw them, with `squared_norms` [n]; `picks` are in the order of
    picking; `epsilon` [n] is as `Selection` records it; `alpha` is absolute.
    """
    if not picks:
        return Theorem4(0, 0, 0)
    reach = 1.0 + alpha * float(squared_norms.max())
    vectors = features.take(torch.tensor(picks, device=features.device))

    def remainder(step: int) -> float:
        """The denominator of C before pick `step`; it falls as S grows."""
        return 1.0 - alpha * _largest_eigenvalue(vectors[:step]) * reach

    met = bisect_left(range(1, len(picks)), True, key=lambda step: remainder(step) <= 0.0)
    held = 0
    for step in _spread(met):
        products = float((vectors[:step] @ vectors[step]).square().sum())
        bound = alpha**2 * products / (1.0 + alpha * float(squared_norms[picks[step]])) / remainder(step)
        held += abs(float(epsilon[picks[step]])) <= bound * (1 + 1e-9) + 1e-12
    checked = len(_spread(met))
    return Theorem4(len(picks) - 1, met, held if checked == met else round(held * met / checked))


def _spread(met: int) -> list[int]:
    count = min(met, CHECKED)
    return [1 + place * met // count for place in range(count)]


def _largest_eigenvalue(vectors: Tensor) -> float:
    if not vectors.shape[1]:
        return 0.0  # nothing but zero gradients
    small = vectors @ vectors.T if len(vectors) <= vectors.shape[1] else vectors.T @ vectors
    return float(cast(Tensor, torch.linalg.eigvalsh(small))[-1])
