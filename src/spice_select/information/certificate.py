"""How good a selection is, without a theory of how it was made: certificate, curvature, guarantee.

Contract: pure functions of gains and eigenvalues; none depends on how rows were chosen.
U is monotone and submodular, so for every set A: U(OPT_k) <= U(A) + the k largest gains D_x(A) outside A.
The k largest eigenvalues of alpha K bound U(OPT_k) as well, since those of a submatrix interlace with them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from spice_select.information.checks import ROUNDING
from spice_select.information.inverse import shifted_cholesky

SHORTEST = 1e-12
"""Least length, relative to the longest row, of a row that counts in the curvature; below it all is rounding."""


@dataclass(frozen=True)
class Certificate:
    """An upper bound on the information of any subset within the same budget and quota.

    After an early stop: of any with as many rows as were picked. Information is that of the vectors which were chosen
    among, so of scaled gradients in their principal directions.

    Attributes:
        bound: U(OPT) is at most this, in nats, rounding included; never below U(S).
        ratio: U(S) / bound, 1.0 when the bound is 0. A ratio of 0.9 means S has at least 90 % of the optimum.
        source: which inequality was tightest, "gains" or "eigenvalues".
        prefix: for "gains", how many picks the set A of the inequality held (0 is the empty set); else None.

    """

    bound: float
    ratio: float
    source: Literal["gains", "eigenvalues"]
    prefix: int | None


def eigenvalue_bound(eigenvalues: Tensor, alpha: float, count: int) -> float:
    """Sum of log(1 + alpha lambda) over the `count` largest eigenvalues (ascending, >= 0) of K or of F."""
    return float(torch.log1p(alpha * eigenvalues[-count:]).sum())


def certify(
    information: float, prefix_bounds: Mapping[int, float], spectral_bound: float, reach: float, terms: int
) -> Certificate:
    """The tightest of some upper bounds on U(OPT), and how much of it `information` = U(S) reaches.

    `prefix_bounds` are U(A) + the k largest gains outside A, by the number of picks in A. With reach = alpha max |g|^2,
    each of the `terms` that a bound adds up is exact to `ROUNDING` * reach nats, by which the bound is widened.
    """
    prefix, by_gains = min(prefix_bounds.items(), key=lambda item: (item[1], item[0]))
    # S is one of the candidates for OPT, so U(S) is a floor; only rounding could take a bound below it.
    bound = max(min(by_gains, spectral_bound), information) + ROUNDING * reach * terms
    ratio = information / bound if bound > 0 else 1.0
    if by_gains <= spectral_bound:
        return Certificate(bound, ratio, "gains", prefix)
    return Certificate(bound, ratio, "eigenvalues", None)


def last_gains(gram: Tensor, alpha: float) -> Tensor:
    """D_x(D - x) for every row of K [m, m]: what x adds when all other rows are there already, [m] in nats.

    It is -log(1 - h_x) with the leverage h = diag(alpha K (I + alpha K)^-1). For short rows h is computed, relative to
    |g_x|^2; for long ones 1 - h, which keeps its digits where h is near 1.
    """
    scaled = alpha * gram
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    inverse = cast(Tensor, torch.linalg.solve_triangular(shifted_cholesky(scaled), identity, upper=False))
    residuals = scaled.diagonal()
    leverage = (residuals - (inverse @ scaled).square().sum(dim=0)).clamp(min=0.0)
    remainder = inverse.square().sum(dim=0)
    return torch.where(residuals < 1.0, -torch.log1p(-leverage.clamp(max=0.5)), -torch.log(remainder))


def total_curvature(last: Tensor, base: Tensor) -> float:
    """Total curvature c = 1 - min_x D_x(D - x) / D_x(empty), in [0, 1]: 0 when no row interacts with another.

    Rows that are zero, or below `SHORTEST` of the longest row, are left out.
    """
    present = torch.expm1(base) > SHORTEST**2 * torch.expm1(base.max())
    if not bool(present.any()):
        return 0.0
    return min(1.0, max(0.0, 1.0 - float((last[present] / base[present]).min())))


def guarantee_factor(curvature: float) -> float:
    """(1 - e^-c) / c, Theorem 3's share of U(OPT_k) that greedy with penalty 0 reaches; 1 at c = 0."""
    return -math.expm1(-curvature) / curvature if curvature > 0 else 1.0
