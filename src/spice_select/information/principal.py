"""The pool's principal gradient subspace: information in the directions that many rows share.

Contract: pure. In all of R^P real gradients are nearly orthogonal, so log det over it counts each row's own noise.
In fewer directions than there are picks each direction is met more than once, and picks spread over what rows share.
"""

import torch
from torch import Tensor

from spice_select.information.features import FeatureRows, TensorFeatures, block_bounds
from spice_select.information.ranks import ALONE, Ranks, own_range, own_rows
from spice_select.information.survey import Survey
from spice_select.information.validation import GramLike, read_budget, read_gram, spectrum

MOST_DIRECTIONS = 16
"""Largest rank that `principal_rank` gives; docs/study.md says what was tried."""


def principal_rank(budget: int) -> int:
    """Directions for so many picks: half their number, at least 1 and at most `MOST_DIRECTIONS`."""
    return min(max(budget // 2, 1), MOST_DIRECTIONS)


def principal_gram(gram: GramLike, rank: int) -> Tensor:
    """The Gram matrix of the gradients projected on their top `rank` principal directions, V_r L_r V_r^T.

    Args:
        gram: m x m inner products of (scaled) gradients, not centred.
        rank: r, at least 1; from m on the matrix comes back as it is.

    Returns:
        [m, m] float64 on the CPU.

    Raises:
        SelectionInputError: gram or rank cannot be used.

    """
    checked = read_gram(gram)
    size = len(checked.matrix)
    if rank >= size:
        return checked.matrix
    eigen = spectrum(checked)
    factor = eigen.vectors[:, -read_budget(rank, size) :] * eigen.values[-rank:].sqrt()  # [m, r]
    return torch.mm(factor, factor.T)


def principal_directions(features: FeatureRows, known: Survey, rank: int, ranks: Ranks = ALONE) -> Tensor:
    """The top `rank` principal directions of features [n, d] that `known` surveyed, [d, rank], orthonormal.

    `rank` must be below n and d. Directions in which the features have no extent come out as zeros.
    """
    vectors, values = known.spectrum.vectors[:, -rank:], known.spectrum.values[-rank:]
    if not known.by_rows:
        return vectors
    inverse_lengths = torch.where(values > 0, values.rsqrt(), 0.0)
    total = torch.zeros(features.dim, rank, dtype=torch.float64, device=features.device)
    own, members = own_rows(features, ranks), own_range(features.rows, ranks)
    for start, stop in block_bounds(own):
        total.addmm_(own.block(start, stop).T, vectors[members.start + start : members.start + stop] * inverse_lengths)
    return ranks.all_reduce_sum(total)


def projected(features: FeatureRows, directions: Tensor, ranks: Ranks = ALONE) -> TensorFeatures:
    """The features' coordinates [n, r] along `directions` [d, r], in memory: r float64 numbers a row."""
    own = own_rows(features, ranks)
    result = torch.empty(own.rows, directions.shape[1], dtype=torch.float64, device=features.device)
    for start, stop in block_bounds(own):
        result[start:stop] = own.block(start, stop) @ directions
    return TensorFeatures(ranks.all_gather(result))
