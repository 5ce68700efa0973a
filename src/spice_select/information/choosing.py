"""Choosing among n rows of d features under any limit: exact, without an n x n matrix, by one process or several.

Contract: the picks, gains and conflicts of greedy selection on the Gram matrix features @ features.T, in memory of
d (k + d) values and a few a row. Features are read as often as needed and never copied whole.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spice_select.information.certificate import eigenvalue_bound
from spice_select.information.checks import SelectionInputError, read_alpha, read_penalty, read_stop_ratio
from spice_select.information.features import FeatureRows, own_blocks
from spice_select.information.greedy import Trace, greedy
from spice_select.information.lazy_engine import LazyEngine
from spice_select.information.limits import CostLimit, Limit
from spice_select.information.mean_direction import MeanDirection
from spice_select.information.moments import Moments, moments_of
from spice_select.information.selection import AllRows, Selection, record

_EVERY_PREFIX = 1 << 21
"""The certificate takes the tightest bound of all prefixes of the picks where n d and n k are at most this."""


def choose_rows(
    moments: Moments,
    limit: Limit,
    alpha: float,
    penalty: float,
    stop_ratio: float | None,
    given: FeatureRows | None = None,
    on_pick: Callable[[int], None] = lambda _: None,
    favour: Tensor | None = None,
    order: Sequence[int] = (),
) -> Selection:
    """As `select_from_features`, for the rows of these moments, under any limit, and by all processes that share them.

    With `given` rows in S from the start, information is what the picks add to them: U(given + S) - U(given); the
    certificate bounds what any other picks could add, and `base` stays D_x(empty). Within a budget of cost, the best
    single row comes first if its score exceeds that of all picks by score per cost, and the whole is no worse for it.
    Scores count times `favour` [n] in (0, 1]. The rows of `order`, which another rule picked, come first. Of picks
    with either nothing is proven.

    Raises `SelectionInputError` if alpha, penalty or stop_ratio cannot be used, or the given rows have another d.
    """
    features, strength = moments.features, read_alpha(alpha, moments.squared_norms)
    weight, ratio = read_penalty(penalty), read_stop_ratio(stop_ratio)
    reach = strength * float(moments.squared_norms.max())
    if given is not None:
        if given.dim != features.dim:
            raise SelectionInputError(f"the given rows have {given.dim} dimensions, the features {features.dim}.")
        norms = moments_of(given, what="given row").squared_norms
        reach = max(reach, read_alpha(alpha, norms, "given row") * float(norms.max()))
    weights = favoured(limit.weights, favour)
    engine = LazyEngine(moments, strength, weight, limit.most, weights, given)
    trace = greedy(engine, limit, ratio, order, on_pick)
    if isinstance(limit, CostLimit) and not trace.stopped_early and not order:
        row, score = _best_single(moments, limit, strength, weight, given, favour)
        if score > trace.total_score(weight):
            engine = LazyEngine(moments, strength, weight, limit.most, weights, given)
            again = greedy(engine, limit, ratio, [row])
            trace = max(trace, again, key=lambda found: found.total_score(weight))
    base = torch.log1p(strength * moments.squared_norms)

    def all_rows() -> AllRows:
        return _all_rows(moments, trace, limit, strength, given)

    proven = None if order or favour is not None else limit.guarantee
    selection = record(trace, base, limit, weight, reach, proven, all_rows)
    if moments.ranks.size > 1:
        _ = selection.certificate  # computed now, while all processes are here
    return selection


def favoured(weights: Tensor | None, favour: Tensor | None) -> Tensor | None:
    """The product of two factors [n] on scores, either of which may be missing."""
    if weights is None or favour is None:
        return favour if weights is None else weights
    return weights.to(favour.device) * favour


def _best_single(
    moments: Moments, limit: CostLimit, alpha: float, penalty: float, given: FeatureRows | None, favour: Tensor | None
) -> tuple[int, float]:
    """The row of the highest score that the budget buys, the cheapest of several, and its score.

    Only rows whose score counts in full compete; where there is none, the score is -inf.
    """
    direction, nothing = MeanDirection(moments.features.dim, moments.features.device), moments.features.block(0, 0)
    for _, block in () if given is None else own_blocks(given):
        direction.add(block)
    (_, gains), *_ = moments.gains(nothing, [0], alpha, given)
    conflicts = direction.conflicts(moments.products(direction.sum), moments.squared_norms.sqrt())
    costs = limit.costs.to(gains.device)
    scores = (gains - penalty * conflicts).masked_fill(costs > limit.budget, -torch.inf)
    if favour is not None:
        scores = scores.masked_fill(favour < 1.0, -torch.inf)
    best = float(scores.max())
    alike = (scores >= best - 1e-12 * abs(best)).nonzero().squeeze(1)
    return int(alike[costs[alike].argmin()]), best


def _all_rows(moments: Moments, trace: Trace, limit: Limit, alpha: float, given: FeatureRows | None) -> AllRows:
    features, count = moments.features, len(trace.picks)
    selected = features.take(torch.tensor(trace.rows, dtype=torch.int64, device=features.device))
    direction = MeanDirection(features.dim, features.device)
    for _, block in () if given is None else own_blocks(given):
        direction.add(block)
    direction.add(selected)
    # Within one cost another selection may hold more rows than this one.
    most = count if limit.weights is None else limit.most
    return AllRows(
        moments.gains(selected, _prefixes(features, limit, count, given), alpha, given),
        direction.conflicts(moments.products(direction.sum), moments.squared_norms.sqrt()),
        eigenvalue_bound(moments.eigenvalues(), alpha, most),
        moments.last_gains(alpha, given),
    )


def _prefixes(features: FeatureRows, limit: Limit, count: int, given: FeatureRows | None) -> Sequence[int]:
    """Numbers of picks at which the certificate is evaluated: all, or 0, budget / 64, / 16, / 4, and the last."""
    if given is None and features.rows * max(features.dim, limit.most) <= _EVERY_PREFIX:
        return range(count + 1)
    return sorted({0, *(most for shift in (6, 4, 2) if (most := limit.most >> shift) < count), count})
