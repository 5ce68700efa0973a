"""How different the rows of a subset are: two published measures.

Contract: pure functions of unit vectors [k, d], float64; rows of length zero have no direction and must be left out.
"""

import math
from typing import cast

import torch
from torch import Tensor

RIDGE = 0.01
"""Added to each squared length in `log_det_distance`, so that duplicates cost much but not infinitely much."""


def unit_rows(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The directions of rows [n, d] with a direction, [m, d] float64, and which rows they are, [m]."""
    wide = vectors.double()
    lengths = cast(Tensor, wide.norm(dim=1))
    places = (lengths > 0).nonzero()[:, 0]
    return wide[places] / lengths[places][:, None], places


def vendi_score(unit: Tensor) -> float:
    """The effective number of different rows, 1 to k: exp of the entropy of the eigenvalues of K / k, K_ij the cosines.

    Friedman and Dieng 2022 (arXiv 2210.02410), order 1. 0 for no row.
    """
    count = len(unit)
    if count == 0:
        return 0.0
    values = _moment_eigenvalues(unit).clamp(min=0.0) / count
    present = values[values > 0]
    return float((-(present * present.log()).sum()).exp())


def log_det_distance(unit: Tensor) -> float:
    """How far k rows are from mutually orthogonal ones, per row, in nats: 0 at best.

    -log det((K + r I) / (1 + r)) / k with K_ij the cosines and r = `RIDGE`; after the log-determinant distance of Wang
    et al. 2024 (arXiv 2402.02318) with orthogonal rows, whose log-determinant is 0, as the reference. 0 for no row.
    """
    count, dim = unit.shape
    if count == 0:
        return 0.0
    values = _moment_eigenvalues(unit).clamp(min=0.0)
    missing = max(count - dim, 0)  # directions of R^k in which more rows than dimensions cannot extend
    logs = float(torch.log((values + RIDGE) / (1 + RIDGE)).sum()) + missing * math.log(RIDGE / (1 + RIDGE))
    return -logs / count


def _moment_eigenvalues(unit: Tensor) -> Tensor:
    """Eigenvalues of the Gram matrix, those that are zero for want of dimensions left out: [min(k, d)]."""
    small = unit @ unit.T if len(unit) <= unit.shape[1] else unit.T @ unit
    return cast(Tensor, torch.linalg.eigvalsh(small))
