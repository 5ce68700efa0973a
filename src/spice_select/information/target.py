"""The target: rows of what the model should learn, the metric A that they define, and features directed by it.

Contract: pure functions of scaled gradients, exact in float64 where rows x directions are at most `EXACT`. Beyond,
rows are seen in the target's directions and the pool's leading ones outside them, and what is cut of a row counts as
noise of its own; only coverage (`coverage.py`) counts all directions.

    A = share * (sum of w_j q_j q_j^T, cut to its largest eigenpairs) + (1 - share) * (the pool's mean outer product)

with both parts scaled to trace 1. Directed features are A^(1/2) g, so their inner products are g^T A h.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from spice_select.information.checks import (
    MatrixLike,
    SelectionInputError,
    read_features,
    read_number,
    read_vector,
    refuse_first,
)
from spice_select.information.features import FeatureRows, PartOfFeatures, TensorFeatures, own_blocks
from spice_select.information.moments import Moments, projected
from spice_select.information.ranks import ALONE, Ranks

Rule = Literal["variance", "information"]
"""How rows are picked for a target: by the target's variance that they explain, or by directed information."""

EXACT = 1 << 23
"""Rows times directions up to which nothing is cut."""
CUT = 128
"""Directions that are kept of more than twice as many, where not all are."""

TARGET_DIRECTIONS = CUT // 2
"""The most eigenpairs of the target that are kept without a `rank`."""

_NEGLIGIBLE = 1e-12  # of the largest eigenvalue: below it all is rounding
_ROUNDING = 1e-9  # of a row's length
_SAMPLE = 8192  # rows from which the pool's leading directions are found
_ITERATIONS = 4


class Target(NamedTuple):
    """What rows are chosen for.

    Attributes:
        rows: t x d gradients, scaled like those that are chosen among.
        weights: of the rows, [t], each >= 0; None for equal ones. Their sum does not matter.
        share: of the target in A, in (0, 1]; the rest is the pool itself.
        rule: "variance" or "information".
        rank: the most eigenpairs of the target that count; None for all up to `TARGET_DIRECTIONS`. Of large pools at
            most so many are seen.

    """

    rows: MatrixLike
    weights: MatrixLike | None = None
    share: float = 1.0
    rule: Rule = "variance"
    rank: int | None = None


@dataclass(frozen=True, eq=False)
class CheckedTarget:
    """A target with rows [t, d] and weights [t] in float64, the weights with sum 1."""

    rows: Tensor
    weights: Tensor
    share: float
    rule: Rule
    rank: int


def read_target(target: Target, dim: int, device: torch.device) -> CheckedTarget:
    """Check a target for features of `dim` dimensions.

    Raises `SelectionInputError` if rows or weights do not fit, all rows are zero, or share or rule is no such thing.
    """
    rows = read_features(target.rows, "target rows").to(device=device, dtype=torch.float64)
    if rows.shape[1] != dim:
        raise SelectionInputError(f"the target's rows have {rows.shape[1]} dimensions, the features {dim}.")
    refuse_first("target", rows, ~torch.isfinite(rows), "not finite; drop that row")
    weights = torch.ones(len(rows)) if target.weights is None else read_vector("target weights", target.weights)
    if len(weights) != len(rows):
        raise SelectionInputError(f"{len(weights)} weights for {len(rows)} target rows; pass one of each.")
    refuse_first("target weights", weights, weights < 0, "a weight is >= 0")
    if not float((weights.to(device) * rows.square().sum(dim=1)).sum()) > 0:
        raise SelectionInputError("the target's gradients or weights are all zero, so they say nothing; pass others.")
    share = read_number("share", target.share, "pass a number in (0, 1]")
    if not 0 < share <= 1:
        raise SelectionInputError(f"share is {target.share!r}; pass a number in (0, 1].")
    if target.rule not in ("variance", "information"):
        raise SelectionInputError(f"rule is {target.rule!r}; choose variance or information.")
    if target.rank is not None and (type(target.rank) is not int or target.rank < 1):
        raise SelectionInputError(f"rank is {target.rank!r}; pass a whole number from 1, or None.")
    weights = weights.to(device=device, dtype=torch.float64)
    most = TARGET_DIRECTIONS if target.rank is None else target.rank
    return CheckedTarget(rows, weights / weights.sum(), share, target.rule, min(most, len(rows), dim))


@dataclass(frozen=True, eq=False)
class TargetView:
    """The rows of a pool as a target sees them.

    Attributes:
        basis: [d, r] orthonormal directions in which rows are seen.
        rows: the pool's rows in them, [n, r] in memory.
        metric: A in them, [r, r].
        root: [r, s], so that directed features are `rows` @ `root`; their mean square is that of the pool's rows.
        conflict: [n] max(0, -cos(g~, sum of w_j q~_j)) of the directed features.

    """

    basis: Tensor
    rows: TensorFeatures
    metric: Tensor
    root: Tensor
    conflict: Tensor

    def with_noise(self, seen: TensorFeatures, squared_norms: Tensor, alpha: float) -> TensorFeatures:
        """Rows in the view's directions [n, r] for the rule of variance, given their |g|^2 [n] in all directions.

        The rest rho of |g|^2 is taken to be orthogonal to all other rows, which makes it noise: M and the denominator
        see g / sqrt(1 + alpha rho).
        """
        block = seen.block(0, seen.rows)
        rest = (squared_norms - block.square().sum(dim=1)).clamp(min=0.0)
        rest = torch.where(rest > 1e-9 * squared_norms, rest, 0.0)  # less is rounding
        return TensorFeatures(block / (1.0 + alpha * rest).sqrt()[:, None])

    def seen(self, features: FeatureRows, ranks: Ranks = ALONE) -> TensorFeatures:
        """Other rows, in the view's directions."""
        return projected(features, self.basis, ranks)

    def directed(self, seen: TensorFeatures) -> TensorFeatures:
        """The directed features of rows in the view's directions."""
        return TensorFeatures(seen.block(0, seen.rows) @ self.root)


def target_view(moments: Moments, target: CheckedTarget, given: FeatureRows | None = None) -> TargetView:
    """See the rows of `moments` through the target; they are read once, and some of them once more.

    Where nothing is cut, what the `given` rows share with each other is seen, too.
    """
    values, vectors = _eigenpairs(target)
    basis = _basis(moments, target.rows, vectors, given)
    rows = projected(moments.features, basis, moments.ranks)
    total = float(moments.squared_norms.sum())
    own = basis.T @ vectors  # [r, s]
    metric = (own * (target.share * values / values.sum())) @ own.T
    block = rows.block(0, rows.rows)
    if target.share < 1.0 and total > 0:
        metric = metric + (1.0 - target.share) / total * (block.T @ block)
    root = own * (values / values.sum()).sqrt() if target.share == 1.0 else _root(metric)
    # Eigenvectors of processors that round differently may have other signs.
    metric, root = moments.ranks.broadcast(metric, 0), moments.ranks.broadcast(root.contiguous(), 0)
    directed = block @ root
    lengths = float(directed.square().sum())
    scale = (total / lengths) ** 0.5 if lengths > 0 else 1.0
    root, directed = scale * root, scale * directed
    mean = target.weights @ (target.rows @ basis @ root)
    norms = cast(Tensor, directed.norm(dim=1))
    length = float(mean @ mean) ** 0.5
    # A row that is orthogonal to the target has rounding alone in its directions.
    reach = float(root.square().sum()) ** 0.5 * block.square().sum(dim=1).sqrt()
    known = (norms > _ROUNDING * reach) & (length > 0)
    opposed = (-(directed @ mean) / (norms * length)).clamp(0.0, 1.0)
    conflict = torch.where(known, opposed, 0.0)
    return TargetView(basis, rows, metric, root, moments.ranks.broadcast(conflict, 0))


def _eigenpairs(target: CheckedTarget) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues [s] of sum of w_j q_j q_j^T, and its eigenvectors [d, s]."""
    weighted = target.weights.sqrt()[:, None] * target.rows
    values, vectors = cast(tuple[Tensor, Tensor], torch.linalg.eigh(weighted @ weighted.T))
    kept = values[-target.rank :] > _NEGLIGIBLE * values[-1]
    values, vectors = values[-target.rank :][kept], vectors[:, -target.rank :][:, kept]
    return values, weighted.T @ vectors / values.sqrt()


def _basis(moments: Moments, targets: Tensor, directions: Tensor, given: FeatureRows | None) -> Tensor:
    """Orthonormal columns [d, r] that span all rows, or the target's `directions` [d, s] and the pool's leading ones.

    One process computes them.
    """
    features, ranks = moments.features, moments.ranks
    size, dim = features.rows + (0 if given is None else given.rows), features.dim
    span = min(dim, size + len(targets))
    if dim <= 2 * CUT or (span == dim and size * dim <= EXACT):
        return torch.eye(dim, dtype=torch.float64, device=features.device)
    whole = size * span <= EXACT and size * dim <= 4 * EXACT
    width = span if whole else CUT
    basis = directions.new_zeros(dim, width)
    if ranks.rank == 0:
        if whole:
            others = [rows.block(0, rows.rows) for rows in (features, given) if rows is not None]
            found = torch.cat([targets, *others]).T
        else:
            step = -(-features.rows // _SAMPLE)
            some = PartOfFeatures(features, torch.arange(0, features.rows, step, device=features.device))
            directions = directions[:, -CUT // 2 :]
            found = torch.cat([directions, _leading(some, directions, width - directions.shape[1])], dim=1)
        basis = cast(tuple[Tensor, Tensor], torch.linalg.qr(found))[0]
    return ranks.broadcast(basis.contiguous(), 0)


def _leading(features: FeatureRows, outside: Tensor, count: int) -> Tensor:
    """`count` leading directions of features outside the orthonormal columns `outside`, by subspace iteration."""
    start = torch.randn(features.dim, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = start.to(features.device)
    for _ in range(_ITERATIONS):
        axes = cast(tuple[Tensor, Tensor], torch.linalg.qr(found - outside @ (outside.T @ found)))[0]
        found = torch.zeros_like(axes)
        for _, block in own_blocks(features):
            found.addmm_(block.T, block @ axes)
    return found - outside @ (outside.T @ found)


def _root(metric: Tensor) -> Tensor:
    """[r, s] whose product with its transpose is the metric."""
    values, vectors = cast(tuple[Tensor, Tensor], torch.linalg.eigh(metric))
    kept = values > _NEGLIGIBLE * values[-1]
    return vectors[:, kept] * values[kept].sqrt()
