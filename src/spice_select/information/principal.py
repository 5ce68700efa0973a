"""The pool's principal gradient subspace: information in the directions that many rows share.

Contract: pure. In all of R^P real gradients are nearly orthogonal, so log det over it counts each row's own noise.
In fewer directions than there are picks each direction is met more than once, and picks spread over what rows share.
"""

import torch
from torch import Tensor

from spice_select.information.features import FeatureRows, TensorFeatures, own_blocks
from spice_select.information.moments import Moments
from spice_select.information.ranks import ALONE, Ranks, own_range

MOST_DIRECTIONS = 16
"""Largest rank that `principal_rank` gives; docs/study.md says what was tried."""


def principal_rank(budget: int) -> int:
    """Directions for so many picks: half their number, at least 1 and at most `MOST_DIRECTIONS`."""
    return min(max(budget // 2, 1), MOST_DIRECTIONS)


def principal_directions(moments: Moments, rank: int) -> Tensor:
    """The top `rank` principal directions of features [n, d], [d, rank], orthonormal.

    `rank` must be below n and d. Directions in which the features have no extent come out as zeros.
    """
    features, ranks = moments.features, moments.ranks
    vectors, values = moments.spectrum.vectors[:, -rank:], moments.spectrum.values[-rank:]
    if not moments.by_rows:
        return vectors
    inverse_lengths = torch.where(values > 0, values.rsqrt(), 0.0)
    own = own_range(features.rows, ranks)
    own_vectors = vectors[own.start : own.stop] * inverse_lengths
    total = torch.zeros(features.dim, rank, dtype=torch.float64, device=features.device)
    for places, block in own_blocks(features, ranks):
        total.addmm_(block.T, own_vectors[places])
    return ranks.all_reduce_sum(total)


def projected(features: FeatureRows, directions: Tensor, ranks: Ranks = ALONE) -> TensorFeatures:
    """The features' coordinates [n, r] along `directions` [d, r], in memory: r float64 values a row."""
    own = [directions.new_zeros(0, directions.shape[1])]
    own += [block @ directions for _, block in own_blocks(features, ranks)]
    return TensorFeatures(ranks.all_gather(torch.cat(own)))
