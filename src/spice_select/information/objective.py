"""The objective: information U(S), the conflict of a gradient with a mean direction, and Theorem 4's bound.

Contract: pure functions of a Gram matrix or of inner products. U(S) = log det(I + alpha K_SS), in nats.
"""

from collections.abc import Iterable
from typing import SupportsIndex, cast

import torch
from torch import Tensor

from spice_select.information.validation import (
    GramLike,
    read_alpha,
    read_budget,
    read_count,
    read_gram,
    read_order,
)

ETA = 1e-8
"""Added to the denominator of every cosine, as in the paper."""


def information(gram: GramLike, subset: Iterable[SupportsIndex], alpha: float) -> float:
    """U(S) = log det(I + alpha K_SS) in nats, for a non-empty subset of rows.

    Raises:
        SelectionInputError: gram, subset or alpha cannot be used.

    """
    matrix = read_gram(gram).matrix
    rows = read_order(subset, matrix.shape[0])
    return _information(read_alpha(alpha, matrix) * matrix, torch.tensor(rows))


def random_information(
    gram: GramLike, budget: int, alpha: float, draws: int, generator: torch.Generator | None = None
) -> float:
    """Mean U(S) over `draws` uniformly random subsets of `budget` rows: what a selection should beat.

    Args:
        gram: m x m inner products.
        budget: size of each subset, 1 to m.
        alpha: absolute, as in `select_from_gram`.
        draws: number of subsets, at least 1.
        generator: a CPU generator; torch's global one when None.

    Raises:
        SelectionInputError: gram, budget, alpha or draws cannot be used.

    """
    matrix = read_gram(gram).matrix
    size = matrix.shape[0]
    count, repeats = read_budget(budget, size), read_count("draws", draws)
    scaled = read_alpha(alpha, matrix) * matrix
    subsets = (torch.randperm(size, generator=generator)[:count] for _ in range(repeats))
    return sum(_information(scaled, rows) for rows in subsets) / repeats


def conflicts(products: Tensor, norms: Tensor, mean_norm: float) -> Tensor:
    """max(0, -cos(g_x, m_S)) for every x: how much each gradient opposes a mean direction.

    Args:
        products: [m] inner products <g_x, m_S>.
        norms: [m] gradient norms |g_x|.
        mean_norm: |m_S|.

    Returns:
        [m] values in [0, 1].

    """
    return (0.0 - products).div_(norms.mul(mean_norm).add_(ETA)).clamp_(0.0, 1.0)


def interaction_bound(gram: GramLike, subset: Iterable[SupportsIndex], alpha: float) -> Tensor | None:
    """Theorem 4's upper bound on |epsilon_x(S)| for every row x, a diagnostic.

    With rho = alpha |F_S| it is C alpha^2 sum_{y in S} <g_x, g_y>^2 / (1 + alpha |g_x|^2), where
    C = 1 / (1 - rho - alpha max|g|^2 rho) and the maximum runs over all rows.

    Returns:
        [m] bounds, or None where the theorem's premises fail (rho >= 1 or a denominator <= 0).

    Raises:
        SelectionInputError: gram, subset or alpha cannot be used.

    """
    matrix = read_gram(gram).matrix
    rows = torch.tensor(read_order(subset, matrix.shape[0]))
    scaled = read_alpha(alpha, matrix) * matrix
    rho = float(_eigenvalues(scaled, rows)[-1])
    remainder = 1.0 - rho - float(scaled.diagonal().max()) * rho
    if rho >= 1.0 or remainder <= 0.0:
        return None
    return scaled[:, rows].square().sum(dim=1) / (1.0 + scaled.diagonal()) / remainder


def _information(scaled: Tensor, rows: Tensor) -> float:
    # Eigenvalues, not a Cholesky factor: log1p keeps a tiny alpha exact, and rounding below zero is dropped.
    return float(torch.log1p(_eigenvalues(scaled, rows)).sum())


def _eigenvalues(scaled: Tensor, rows: Tensor) -> Tensor:
    values = cast(Tensor, torch.linalg.eigvalsh(scaled[rows][:, rows]))
    return values.clamp(min=0.0)
