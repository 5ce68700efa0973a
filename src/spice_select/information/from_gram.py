"""Choosing rows of one Gram matrix, and recording choices that another method made.

Contract: pure functions of an m x m Gram matrix K_ij = <g_i, g_j>; float64 on the CPU; deterministic.

    selection = select_from_gram(gradients @ gradients.T, budget=12, alpha=relative_alpha(gram, 1.0))
    selection.indices, selection.certificate.ratio
"""

from collections.abc import Iterable, Sequence
from typing import SupportsIndex

from spice_select.information.certificate import eigenvalue_bound, last_gains
from spice_select.information.checks import read_alpha, read_budget, read_order, read_penalty, read_stop_ratio
from spice_select.information.gram import Gram, GramLike, read_gram
from spice_select.information.gram_engine import GramEngine
from spice_select.information.greedy import greedy
from spice_select.information.limits import RowLimit
from spice_select.information.selection import AllRows, Selection, record


def select_from_gram(
    gram: GramLike, budget: int, alpha: float, penalty: float = 0.1, stop_ratio: float | None = None
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

    Raises:
        SelectionInputError: an argument cannot be used; the message says which, where, and what to do.

    """
    checked = read_gram(gram)
    count = read_budget(budget, len(checked.matrix))
    return _select(checked, count, alpha, penalty, read_stop_ratio(stop_ratio), [])


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
