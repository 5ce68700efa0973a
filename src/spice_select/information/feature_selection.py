"""Choosing among n rows given as features, one vector of d numbers a row: exact, without an n x n matrix.

Contract: the picks, gains and conflicts of `select_from_gram(features @ features.T, ...)`, in memory of
d (k + d) numbers and a few a row. Features are read as often as needed and never copied whole.

    selection = select_from_features(gradients, budget=1000, alpha=1.0)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spice_select.information.certificate import certify, eigenvalue_bound, total_curvature
from spice_select.information.eager import EagerGreedy
from spice_select.information.features import FeatureRows, TensorFeatures
from spice_select.information.greedy import Trace, greedy
from spice_select.information.lazy import LazyGreedy
from spice_select.information.limits import Limit, RowLimit
from spice_select.information.ranks import ALONE, Ranks, own_range, own_rows
from spice_select.information.selection import Selection
from spice_select.information.shared import SharedGreedy
from spice_select.information.survey import Survey, last_gains_beside, second_moment, survey
from spice_select.information.validation import (
    GramLike,
    SelectionInputError,
    read_absolute_alpha,
    read_budget,
    read_features,
    read_penalty,
    read_stop_ratio,
)

_EAGER_NUMBERS = 1 << 21
"""n rows of d numbers, for k picks, are looked at whole at every step where n d and n k are at most this (16 MiB)."""


@dataclass(frozen=True, slots=True)
class FeatureSelection:
    """A selection, and what finding it took.

    Attributes:
        selection: the picks and their record.
        refreshed: rows looked at again between picks.

    """

    selection: Selection
    refreshed: int


def select_from_features(
    features: GramLike | FeatureRows,
    budget: int,
    alpha: float,
    penalty: float = 0.1,
    stop_ratio: float | None = None,
) -> Selection:
    """Pick up to `budget` rows greedily by score = gain - penalty * conflict (the paper's algorithm 1).

    Ties go to the lower index; scores that differ by rounding alone are ties.

    Args:
        features: n x d per-sample gradients, or their projections (tensor, array or nested lists; any real dtype), or
            rows that lie elsewhere, such as a gradient store's.
        budget: k, from 1 to n.
        alpha: absolute, applied to features as given.
        penalty: lambda, the weight of the conflict; 0 is pure information.
        stop_ratio: omega; stop before the first pick whose gain is <= omega * (gain of the first pick).
            None fills the budget.

    Raises:
        SelectionInputError: an argument cannot be used; the message says which, where, and what to do.

    """
    rows = features if isinstance(features, FeatureRows) else TensorFeatures(read_features(features))
    limit = RowLimit(read_budget(budget, rows.rows, "features hold"))
    return choose_rows(rows, survey(rows), limit, alpha, penalty, stop_ratio).selection


def choose_rows(
    features: FeatureRows,
    known: Survey,
    limit: Limit,
    alpha: float,
    penalty: float,
    stop_ratio: float | None,
    given: FeatureRows | None = None,
    on_pick: Callable[[int], None] = lambda _: None,
    ranks: Ranks = ALONE,
) -> FeatureSelection:
    """As `select_from_features`, for rows that were surveyed, under any limit, and by any number of processes.

    With `given` rows in S from the start, information is what the picks add to them: U(given + S) - U(given); the
    certificate bounds what any other picks could add, and `base` stays D_x(empty).

    Raises:
        SelectionInputError: alpha, penalty or stop_ratio cannot be used, or the given rows have another d.

    """
    strength = read_absolute_alpha(alpha, known.squares)
    weight, ratio = read_penalty(penalty), read_stop_ratio(stop_ratio)
    base = torch.log1p(strength * known.squares)
    if given is not None and given.dim != features.dim:
        raise SelectionInputError(f"the given rows have {given.dim} numbers each, the features {features.dim}.")
    engine = engine_for(features, known.squares, limit, strength, weight, given, ranks)
    every_step = _is_small(features, limit) and given is None
    trace = greedy(engine, limit, ratio, range(limit.most) if every_step else _geometric(limit.most), on_pick)
    end = engine.refresh_all()
    first = base if given is None else trace.prefixes[0]
    if given is None:
        last = known.last_gains(features, strength, ranks)
    else:
        together = second_moment(features, ranks) + second_moment(given, ranks)
        last = last_gains_beside(features, together, strength, ranks)
    # Within one cost another selection may hold more rows than this one.
    most = len(trace.picks) if limit.weights is None else limit.most
    spectral = eigenvalue_bound(known.spectrum.values, strength, most)
    selection = _record(trace, end, base, limit, weight, spectral, total_curvature(last, first))
    return FeatureSelection(selection, engine.refreshed)


def engine_for(
    features: FeatureRows,
    squares: Tensor,
    limit: Limit,
    alpha: float,
    penalty: float,
    given: FeatureRows | None = None,
    ranks: Ranks = ALONE,
) -> EagerGreedy | LazyGreedy | SharedGreedy:
    """The quickest engine for rows whose |g|^2 are `squares` [n]; S starts with the `given` rows."""
    largest = float(torch.log1p(alpha * squares).max())
    weights = None if limit.weights is None else limit.weights.to(squares.device)
    if _is_small(features, limit) and given is None and ranks.size == 1:
        whole = features.block(0, features.rows)
        return EagerGreedy(whole, squares, alpha, penalty, limit.most, largest, weights)
    own = own_range(features.rows, ranks)
    weights = None if weights is None else weights[own.start : own.stop]
    held, norms = own_rows(features, ranks), squares[own.start : own.stop]
    engine = LazyGreedy(held, norms, alpha, penalty, limit.most, largest, weights)
    if given is not None:
        engine.start_from(given)
    return engine if ranks.size == 1 else SharedGreedy(engine, features.rows, ranks)


def _is_small(features: FeatureRows, limit: Limit) -> bool:
    return features.rows * max(features.dim, limit.most) <= _EAGER_NUMBERS


def _geometric(most: int) -> set[int]:
    """Numbers of picks at which the certificate is tightened: 0, and quarters of quarters of the budget."""
    return {0, *(most >> shift for shift in (6, 4, 2))}


def _record(
    trace: Trace,
    end: tuple[Tensor, Tensor],
    base: Tensor,
    limit: Limit,
    penalty: float,
    spectral: float,
    curvature: float,
) -> Selection:
    """Values at each pick, and for the rest those at the end."""
    gain, conflict = (values.clone() for values in end)
    gains = torch.tensor([taken.gain for taken in trace.taken], dtype=torch.float64, device=base.device)
    picks = torch.tensor(trace.picks, dtype=torch.int64, device=base.device)
    reached = torch.cat([gains.new_zeros(1), gains.cumsum(0)])  # [k + 1], U of each prefix
    prefixes = {**trace.prefixes, len(trace.picks): end[0]}
    bounds = torch.full((len(trace.picks) + 1,), torch.inf, dtype=torch.float64)
    for count, outside in prefixes.items():
        left = outside.clone()
        left[picks[:count]] = 0.0  # a row inside the prefix gains nothing
        bounds[count] = float(reached[count]) + limit.largest_sum(left.cpu(), len(trace.picks))
    gain[picks] = gains
    conflict[picks] = torch.tensor([taken.conflict for taken in trace.taken], dtype=torch.float64, device=base.device)
    gain, conflict, base = gain.cpu(), conflict.cpu(), base.cpu()
    return Selection(
        indices=list(trace.picks),
        gain=gain,
        base=base,
        epsilon=gain - base,
        conflict=conflict,
        score=gain - penalty * conflict,
        information=float(reached[-1]),
        stopped_early=trace.stopped_early,
        certificate=certify(float(reached[-1]), bounds, spectral),
        curvature=curvature,
    )
