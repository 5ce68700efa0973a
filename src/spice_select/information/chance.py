"""Information of subsets that nobody chose: random ones, and any others to compare with.

Contract: exact in float64; features are read once a subset.
"""

import torch
from torch import Tensor

from spice_select.information.factor import log_det_shifted
from spice_select.information.features import BLOCK_BYTES, FeatureRows
from spice_select.information.ranks import ALONE, Ranks
from spice_select.information.survey import second_moment


def random_draws(
    features: FeatureRows,
    budget: int,
    alpha: float,
    draws: int,
    generator: torch.Generator,
    given: FeatureRows | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """U(S) of `draws` uniformly random subsets of `budget` rows, [draws] in nats; their mean is `random_information`.

    With `given` rows it is what random rows add to them, U(given + S) - U(given).
    """
    found = torch.zeros(draws, dtype=torch.float64)
    before = None if given is None else second_moment(given, ranks)
    for draw in range(draws):
        rows = torch.randperm(features.rows, generator=generator)[:budget].sort().values.to(features.device)
        if draw % ranks.size == ranks.rank:
            found[draw] = subset_information(features, rows, alpha, before)
    return ranks.all_reduce_sum(found)


def subset_information(features: FeatureRows, rows: Tensor, alpha: float, before: Tensor | None = None) -> float:
    """U(S) of the rows with these numbers; with the second moment [d, d] of given rows, what S adds to them."""
    if before is None and len(rows) <= features.dim:
        block = features.take(rows)
        return log_det_shifted(alpha * (block @ block.T))
    moment = torch.zeros(features.dim, features.dim, dtype=torch.float64, device=features.device)
    step = max(1, BLOCK_BYTES // (8 * max(1, features.dim)))
    for start in range(0, len(rows), step):
        block = features.take(rows[start : start + step])
        moment.addmm_(block.T, block)
    if before is None:
        return log_det_shifted(alpha * moment)
    return log_det_shifted(alpha * (before + moment)) - log_det_shifted(alpha * before)
