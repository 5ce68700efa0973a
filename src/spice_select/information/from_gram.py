"""Choosing rows of one Gram matrix, and recording choices that another method made.

Contract: pure functions of an m x m Gram matrix K_ij = <g_i, g_j>; float64 on the CPU; deterministic.

    selection = select_from_gram(gradients @ gradients.T, budget=12, alpha=relative_alpha(gram, 1.0))
    selection.indices, selection.certificate.ratio
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, SupportsIndex

import torch

from spice_select.information.certificate import eigenvalue_bound, last_gains
from spice_select.information.checks import (
    MatrixLike,
    SelectionInputError,
    read_alpha,
    read_budget,
    read_matrix,
    read_order,
    read_penalty,
    read_stop_ratio,
)
from spice_select.information.features import TensorFeatures
from spice_select.information.for_target import TargetedPool, choose_for_target, targeted
from spice_select.information.gram import Gram, GramLike, gram_features, read_gram
from spice_select.information.gram_engine import GramEngine
from spice_select.information.greedy import greedy
from spice_select.information.limits import RowLimit
from spice_select.information.moments import moments_of
from spice_select.information.selection import AllRows, Selection, record
from spice_select.information.target import Rule, Target, read_target


class TargetBlocks(NamedTuple):
    """A `Target` whose rows are known by inner products alone.

    Attributes:
        cross: m x t, of the pool's rows with the target's.
        inner: t x t, of the target's rows with each other.
        weights: as in `Target`, as the rest.
        share: the target's in A.
        rule: "variance" or "information".
        rank: the most eigenpairs of the target.

    """

    cross: MatrixLike
    inner: MatrixLike
    weights: MatrixLike | None = None
    share: float = 1.0
    rule: Rule = "variance"
    rank: int | None = None


def select_from_gram(
    gram: GramLike,
    budget: int,
    alpha: float,
    penalty: float = 0.1,
    stop_ratio: float | None = None,
    target: TargetBlocks | None = None,
) -> Selection:
    """Pick up to `budget` rows greedily by score = gain - penalty * conflict (the paper's algorithm 1).

    Ties go to the lower index; scores that differ by rounding alone are ties.

    Args:
        gram: m x m inner products of per-sample gradients (tensor, array or nested lists; any real dtype, any
            device). Scale it first with `scale_gram` where lengths matter.
        budget: k, from 1 to m.
        alpha: absolute, applied to gram as given; `relative_alpha` finds one that suits the pool.
        penalty: lambda, the weight of the conflict; 0 is pure information.
        stop_ratio: omega; stop before the first pick whose gain is <= omega * (gain of the first pick).
            None fills the budget.
        target: what rows are picked for, as by `select_from_features`.

    Raises:
        SelectionInputError: an argument cannot be used; the message says which, where, and what to do.

    """
    checked = read_gram(gram)
    count = read_budget(budget, len(checked.matrix))
    if target is not None:
        pool = targeted_gram(_joined(checked, target), len(checked.matrix), target)
        return choose_for_target(pool, RowLimit(count), alpha, penalty, stop_ratio)
    return _select(checked, count, alpha, penalty, read_stop_ratio(stop_ratio), [])


def targeted_gram(joint: GramLike, rows: int, target: Target | TargetBlocks) -> TargetedPool:
    """The pool of the first `rows` rows of a Gram matrix [m + t, m + t], whose others are the target's.

    Of `target`, all but the rows themselves is used. Raises `SelectionInputError` if something cannot be used.
    """
    features = gram_features(joint)  # [m + t, r]
    known = Target(features[rows:], target.weights, target.share, target.rule, target.rank)
    checked = read_target(known, features.shape[1], features.device)
    return targeted(moments_of(TensorFeatures(features[:rows])), checked)


def _joined(gram: Gram, target: TargetBlocks) -> Gram:
    """The Gram matrix [m + t, m + t] of a pool and its target."""
    cross, inner = (
        read_matrix(values, name, shape).to(device="cpu", dtype=torch.float64)
        for values, name, shape in ((target.cross, "cross", "m x t"), (target.inner, "inner", "t x t"))
    )
    if cross.ndim != 2 or inner.ndim != 2 or cross.shape != (len(gram.matrix), len(inner)):
        raise SelectionInputError(
            f"cross has shape {tuple(cross.shape)} and inner {tuple(inner.shape)} for a gram of {len(gram.matrix)} "
            "rows; pass m x t and t x t inner products."
        )
    return read_gram(torch.cat([torch.cat([gram.matrix, cross], 1), torch.cat([cross.T, inner], 1)]))


def select_in_order(gram: GramLike, order: Iterable[SupportsIndex], alpha: float, penalty: float = 0.1) -> Selection:
    """Record picks made by another method (at random, by norm ...) as `select_from_gram` records its own.

    `order` holds distinct row numbers of `gram` [m, m], at least one, as they were picked; `alpha` is absolute;
    `penalty` (lambda) changes `score` only. Raises `SelectionInputError` if an argument cannot be used.
    """
    checked = read_gram(gram)
    rows = read_order(order, len(checked.matrix))
    return _select(checked, len(rows), alpha, penalty, None, rows)


def _select(
    gram: Gram, count: int, alpha: float, penalty: float, stop_ratio: float | None, order: Sequence[int]
) -> Selection:
    strength, weight = read_alpha(alpha, gram.squared_norms), read_penalty(penalty)
    spectrum, limit = gram.spectrum, RowLimit(count)
    engine = GramEngine(gram.matrix, strength, weight, count)
    trace = greedy(engine, limit, stop_ratio, order)

    def all_rows() -> AllRows:
        bound = eigenvalue_bound(spectrum.values, strength, len(trace.picks))
        return AllRows(enumerate(engine.history), engine.conflicts, bound, last_gains(gram.matrix, strength))

    reach, guarantee = strength * float(gram.squared_norms.max()), None if order else limit.guarantee
    return record(trace, engine.history[0], limit, weight, reach, guarantee, all_rows)
