"""Choosing rows for a target, by posterior variance or by directed information, and what they cover of it.

Contract: the picks of either rule in float64, by any number of processes that share the rows. The selection's
quantities (gains, U, certificate) are those of directed features whatever the rule. A gain counts times
1 - conflict^4, with the target's conflict: information and variance do not see the sign of a gradient, so without this
factor a row that points against the target would be worth as much as its opposite.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spice_select.information.checks import MatrixLike, read_alpha, read_stop_ratio
from spice_select.information.choosing import choose_rows, favoured
from spice_select.information.coverage import Coverage, coverage_of_moment, random_coverage, steps_of, whole_coverage
from spice_select.information.features import FeatureRows, PartOfFeatures, TensorFeatures, own_blocks
from spice_select.information.greedy import greedy
from spice_select.information.limits import Limit
from spice_select.information.moments import Moments, moments_of, second_moment
from spice_select.information.selection import Selection
from spice_select.information.target import CheckedTarget, Target, TargetView, target_view
from spice_select.information.variance import VarianceEngine

DRAWS = 4
"""Random subsets over which their coverage is averaged."""


@dataclass(frozen=True, eq=False)
class TargetedPool:
    """A pool's rows, and given ones, in all directions and directed by a target."""

    target: CheckedTarget
    uncut: Moments
    uncut_given: FeatureRows | None
    view: TargetView
    moments: Moments  # of the directed features
    given: TensorFeatures | None


def as_target(target: MatrixLike | Target) -> Target:
    """A target of equal weights where only its rows are given."""
    return target if isinstance(target, Target) else Target(target)


def targeted(moments: Moments, target: CheckedTarget, given: FeatureRows | None = None) -> TargetedPool:
    """Direct the rows of `moments`, and `given` ones, by a target."""
    view = target_view(moments, target, given)
    before = None if given is None else view.directed(view.seen(given, moments.ranks))
    return TargetedPool(target, moments, given, view, moments_of(view.directed(view.rows), moments.ranks), before)


def choose_for_target(
    pool: TargetedPool,
    limit: Limit,
    alpha: float,
    penalty: float,
    stop_ratio: float | None,
    stop_coverage: float | None = None,
    seed: int = 0,
    on_pick: Callable[[int], None] = lambda _: None,
    order: Sequence[int] = (),
) -> Selection:
    """Pick for the target of a pool until the limit; the selection has its `coverage`.

    `alpha` applies to all directions and to the directed features, whose mean square is the same. By variance,
    `stop_ratio` compares shares of the variance, and `penalty` has no effect on the picks. `stop_coverage`: end with
    the first pick at which the mean coverage reaches this share of the whole pool's. `seed` draws the random rows.
    `order` are the picks of another method within the limit: they are measured, and the target's rule is not used.

    Raises `SelectionInputError` as `choose_rows`.
    """
    favour, stopped = _favour(pool), False
    if not order and pool.target.rule == "variance":
        order, stopped = _by_variance(pool, limit, alpha, read_stop_ratio(stop_ratio), on_pick)
    if order:
        within = limit.as_large(order) if stopped else limit
        selection = choose_rows(pool.moments, within, alpha, penalty, None, pool.given, order=order)
        selection = replace(selection, stopped_early=stopped)
    else:
        selection = choose_rows(pool.moments, limit, alpha, penalty, stop_ratio, pool.given, on_pick, favour)
    coverage = _coverage(pool, selection.indices, alpha)
    if stop_coverage is not None:
        ranks = pool.uncut.ranks  # processors may round differently, and all must stop at the same pick
        count = int(ranks.broadcast(torch.tensor(coverage.picks_for(stop_coverage)), 0))
        if count < len(selection.indices):
            order = selection.indices[:count]
            selection = choose_rows(
                pool.moments, limit.as_large(order), alpha, penalty, None, pool.given, order=order
            )  # fmt: skip
            selection = replace(selection, stopped_early=True)
            coverage = replace(coverage, steps=coverage.steps[:count], along=coverage.along[:count])
    by_chance = random_coverage(
        pool.uncut, pool.target.rows, limit, selection.indices, alpha, DRAWS, torch.Generator().manual_seed(seed),
        _before(pool),
    )  # fmt: skip
    return replace(selection, coverage=replace(coverage, random=by_chance.cpu()))


def _favour(pool: TargetedPool) -> Tensor:
    """The factors on gains, [n] in (0, 1]: a row that is exactly opposed ties with one that adds nothing."""
    return (1.0 - pool.view.conflict.pow(4)).clamp(min=1e-15)


def _by_variance(
    pool: TargetedPool, limit: Limit, alpha: float, stop_ratio: float | None, on_pick: Callable[[int], None]
) -> tuple[list[int], bool]:
    """The picks by posterior variance, and whether the early stop ended them."""
    view, ranks = pool.view, pool.uncut.ranks
    strength = read_alpha(alpha, pool.uncut.squared_norms)
    rows, before = view.with_noise(view.rows, pool.uncut.squared_norms, strength), None
    if pool.uncut_given is not None:
        norms = moments_of(pool.uncut_given, ranks).squared_norms
        before = second_moment(view.with_noise(view.seen(pool.uncut_given, ranks), norms, strength))
    weights = favoured(limit.weights, _favour(pool))
    engine = VarianceEngine(rows, view.metric, strength, weights, before, ranks)
    trace = greedy(engine, limit, stop_ratio, on_pick=on_pick)
    return trace.rows, trace.stopped_early


def _before(pool: TargetedPool) -> Tensor | None:
    """The sum of g g^T over the given rows [d, d], if any."""
    return None if pool.uncut_given is None else second_moment(pool.uncut_given)


def _coverage(pool: TargetedPool, picks: list[int], alpha: float) -> Coverage:
    """The coverage by picks and by the whole pool; that by random rows is still zero."""
    moments, rows, before = pool.uncut, pool.target.rows, _before(pool)
    start = torch.zeros_like(rows[:, 0]) if before is None else coverage_of_moment(before, rows, alpha)
    chosen = PartOfFeatures(moments.features, torch.tensor(picks, dtype=torch.int64, device=rows.device))
    along = torch.cat([rows.new_zeros(0, len(rows)), *(block @ rows.T for _, block in own_blocks(chosen))]) > 0
    parts = (pool.target.weights, rows.square().sum(dim=1), start, steps_of(chosen, rows, alpha, before))
    whole = whole_coverage(moments, rows, alpha, before)
    return Coverage(*(part.cpu() for part in (*parts, whole, torch.zeros_like(start), pool.view.conflict, along)))
