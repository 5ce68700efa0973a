"""Cholesky factors of I + alpha F, also where F is so large that rounding hides the I.

Contract: exact up to rounding in float64; never fails on finite numbers.
"""

from typing import cast

import torch
from torch import Tensor


def shifted_cholesky(scaled: Tensor) -> Tensor:
    """The lower factor L of I + `scaled` = L L^T, for a positive semidefinite `scaled` [d, d]."""
    matrix = scaled + torch.eye(len(scaled), dtype=scaled.dtype, device=scaled.device)
    factor, failed = cast(tuple[Tensor, Tensor], torch.linalg.cholesky_ex(matrix))
    if not int(failed):
        return factor
    # Eigenvalues below 1 are rounding. With them raised, V sqrt(values) is a root, whose QR gives the triangular one.
    values, vectors = cast(tuple[Tensor, Tensor], torch.linalg.eigh(matrix))
    root = vectors * values.clamp(min=1.0).sqrt()
    upper = cast(tuple[Tensor, Tensor], torch.linalg.qr(root.T))[1]
    return (upper * upper.diagonal().sign()[:, None]).T


def log_det_shifted(scaled: Tensor) -> float:
    """Log det(I + `scaled`) of a positive semidefinite `scaled` [d, d]."""
    return 2.0 * float(shifted_cholesky(scaled).diagonal().log().sum())
