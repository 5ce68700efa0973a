"""The objective: information U(S) = log det(I + alpha F_S) of a subset S, also of random subsets.

Contract: exact in float64; features are read once a subset.
"""

from collections.abc import Iterable, Sequence
from typing import SupportsIndex, cast

import torch
from torch import Tensor

from spice_select.information.checks import read_alpha, read_budget, read_count, read_order
from spice_select.information.features import FeatureRows, PartOfFeatures
from spice_select.information.gram import GramLike, read_gram
from spice_select.information.inverse import log_det_shifted
from spice_select.information.limits import Limit
from spice_select.information.moments import second_moment
from spice_select.information.ranks import ALONE, Ranks


def information(gram: GramLike, subset: Iterable[SupportsIndex], alpha: float) -> float:
    """U(S) = log det(I + alpha K_SS) in nats, for a non-empty subset of rows.

    Raises `SelectionInputError` if gram, subset or alpha cannot be used.
    """
    checked = read_gram(gram)
    rows = read_order(subset, len(checked.matrix))
    return _log_det_of_rows(read_alpha(alpha, checked.squared_norms) * checked.matrix, torch.tensor(rows))


def _log_det_of_rows(scaled: Tensor, rows: Tensor) -> float:
    """Log det(I + the rows' part of `scaled`), for a scaled Gram matrix alpha K [m, m]."""
    # Eigenvalues, not a Cholesky factor: log1p keeps a tiny alpha exact, and rounding below zero is dropped.
    values = cast(Tensor, torch.linalg.eigvalsh(scaled[rows][:, rows]))
    return float(torch.log1p(values.clamp(min=0.0)).sum())


def random_information(
    gram: GramLike, budget: int, alpha: float, draws: int, generator: torch.Generator | None = None
) -> float:
    """Mean U(S) over `draws` uniformly random subsets of `budget` rows of `gram` [m, m]: what a selection should beat.

    `alpha` is absolute; `generator` is a CPU generator, or None for torch's global one. Raises `SelectionInputError` if
    an argument cannot be used.
    """
    checked = read_gram(gram)
    size = len(checked.matrix)
    count, repeats = read_budget(budget, size), read_count("draws", draws)
    scaled = read_alpha(alpha, checked.squared_norms) * checked.matrix
    subsets = (torch.randperm(size, generator=generator)[:count] for _ in range(repeats))
    return sum(_log_det_of_rows(scaled, rows) for rows in subsets) / repeats


def random_draws(
    features: FeatureRows,
    limit: Limit,
    picks: Sequence[int],
    alpha: float,
    draws: int,
    generator: torch.Generator,
    given: FeatureRows | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """U(S) of `draws` random subsets, [draws] in nats, each as much as `picks` by the limit: in rows, or in cost.

    With `given` rows it is what random rows add to them, U(given + S) - U(given).
    """
    found = torch.zeros(draws, dtype=torch.float64)
    before = None if given is None else second_moment(given, ranks)
    for draw in range(draws):
        order = torch.randperm(features.rows, generator=generator)
        rows = limit.as_much(picks, order).sort().values.to(features.device)
        if draw % ranks.size == ranks.rank:
            found[draw] = subset_information(features, rows, alpha, before)
    return ranks.all_reduce_sum(found)


def subset_information(features: FeatureRows, rows: Tensor, alpha: float, before: Tensor | None = None) -> float:
    """U(S) of the rows with these numbers; with the second moment [d, d] of given rows, what S adds to them."""
    if before is None and len(rows) <= features.dim:
        block = features.take(rows)
        return log_det_shifted(alpha * (block @ block.T))
    moment = second_moment(PartOfFeatures(features, rows))
    if before is None:
        return log_det_shifted(alpha * moment)
    return log_det_shifted(alpha * (before + moment)) - log_det_shifted(alpha * before)
