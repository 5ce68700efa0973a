"""How different the rows of a subset are: three published measures and the coverage of clusters.

Contract: pure functions of unit vectors [k, d], float64; rows of length zero have no direction and must be left out.
"""

from typing import cast

import torch
from torch import Tensor

RIDGE = 0.01
"""Added to each squared length in `log_det_distance`, so that duplicates cost much but not infinitely much."""

NEIGHBOURS = 10
"""Nearest rows of the pool that `local_density` looks at (Yang et al. 2025, their recommended setting)."""


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
    logs = torch.log((values + RIDGE) / (1 + RIDGE)).sum() + missing * torch.log(
        torch.tensor(RIDGE / (1 + RIDGE), dtype=torch.float64)
    )
    return -float(logs) / count


def local_density(unit: Tensor, pool: Tensor) -> Tensor:
    """1 / sqrt(mean cosine distance to the `NEIGHBOURS` nearest rows of `pool`), [k]; a row itself does not count.

    Args:
        unit: [k, d], each row also a row of `pool`.
        pool: [n, d].

    """
    nearest = min(NEIGHBOURS, len(pool) - 1)
    if nearest < 1:
        return torch.ones(len(unit), dtype=torch.float64)
    similar = (unit @ pool.T).topk(nearest + 1, dim=1).values[:, 1:]
    return (1.0 - similar).clamp(min=0.0).mean(dim=1).add(1e-9).rsqrt()


def novel_sum(unit: Tensor, density: Tensor) -> float:
    """Mean over rows of the distance to the other rows, near ones and dense places weighted more. 0 for fewer than two.

    v(x_i) is the mean of density_j * (1 - cos_ij) over j != i with weights 1 / (rank of j by nearness to i): NovelSum,
    Yang et al. 2025 (arXiv 2502.17184), with powers 1 of nearness and 1/2 of density.
    """
    count = len(unit)
    if count < 2:
        return 0.0
    weights = 1.0 / torch.arange(1, count, dtype=torch.float64)
    distances = (1.0 - unit @ unit.T).clamp(min=0.0).fill_diagonal_(-1.0)  # a row itself comes first, and is left out
    ordered = distances.sort(dim=1, stable=True)
    novelty = (density[ordered.indices[:, 1:]] * ordered.values[:, 1:]) @ (weights / weights.sum())
    return float(novelty.mean())


def directions_clustered(unit: Tensor, clusters: int, generator: torch.Generator, rounds: int = 30) -> Tensor:
    """Spherical k-means: the cluster of each row of [n, d], [n] int64 below `clusters`, which is at most n.

    Starts from rows drawn far from each other (k-means++); the same generator gives the same clusters.
    """
    centres = _far_rows(unit, clusters, generator)
    nearest = (unit @ centres.T).argmax(dim=1)
    for _ in range(rounds):
        sums = torch.zeros_like(centres).index_add_(0, nearest, unit)
        lengths = cast(Tensor, sums.norm(dim=1, keepdim=True))
        centres = torch.where(lengths > 0, sums / lengths, centres)
        moved = (unit @ centres.T).argmax(dim=1)
        if bool((moved == nearest).all()):
            break
        nearest = moved
    return nearest


def _far_rows(unit: Tensor, count: int, generator: torch.Generator) -> Tensor:
    first = int(torch.randint(len(unit), (1,), generator=generator))
    chosen, closeness = [first], unit @ unit[first]
    for _ in range(count - 1):
        weights = (1.0 - closeness).clamp(min=0.0)
        weights[chosen] = 0.0
        if float(weights.sum()) == 0.0:  # nothing but copies is left
            weights = torch.ones_like(weights)
            weights[chosen] = 0.0
        row = int(torch.multinomial(weights, 1, generator=generator))
        chosen.append(row)
        closeness = torch.maximum(closeness, unit @ unit[row])
    return unit[chosen]


def _moment_eigenvalues(unit: Tensor) -> Tensor:
    """Eigenvalues of the Gram matrix, those that are zero for want of dimensions left out: [min(k, d)]."""
    small = unit @ unit.T if len(unit) <= unit.shape[1] else unit.T @ unit
    return cast(Tensor, torch.linalg.eigvalsh(small))
