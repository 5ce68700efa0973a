"""The objective: information U(S), and the conflict of a gradient with a mean direction.

Contract: pure functions of a Gram matrix or of inner products. U(S) = log det(I + alpha K_SS), in nats.
"""

from collections.abc import Iterable
from typing import SupportsIndex, cast

import torch
from torch import Tensor

from spice_select.information.checks import read_alpha, read_order
from spice_select.information.gram import GramLike, read_gram

ETA = 1e-8
"""Added to the denominator of every cosine, as in the paper."""


def information(gram: GramLike, subset: Iterable[SupportsIndex], alpha: float) -> float:
    """U(S) = log det(I + alpha K_SS) in nats, for a non-empty subset of rows.

    Raises:
        SelectionInputError: gram, subset or alpha cannot be used.

    """
    checked = read_gram(gram)
    rows = read_order(subset, len(checked.matrix))
    return log_det_of_rows(read_alpha(alpha, checked.squared_norms) * checked.matrix, torch.tensor(rows))


def log_det_of_rows(scaled: Tensor, rows: Tensor) -> float:
    """Log det(I + the rows' part of `scaled`), for a scaled Gram matrix alpha K [m, m]."""
    # Eigenvalues, not a Cholesky factor: log1p keeps a tiny alpha exact, and rounding below zero is dropped.
    values = cast(Tensor, torch.linalg.eigvalsh(scaled[rows][:, rows]))
    return float(torch.log1p(values.clamp(min=0.0)).sum())


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
