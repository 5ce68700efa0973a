"""Choosing among n rows given as features, one vector of d dimensions a row.

selection = select_from_features(gradients, budget=1000, alpha=1.0)
selection = select_from_features(gradients, budget=1000, alpha=1.0, target=gradients_of_what_to_learn)
"""

from spice_select.information.checks import MatrixLike, read_budget, read_features
from spice_select.information.choosing import choose_rows
from spice_select.information.features import FeatureRows, TensorFeatures
from spice_select.information.for_target import as_target, choose_for_target, targeted
from spice_select.information.limits import RowLimit
from spice_select.information.moments import moments_of
from spice_select.information.selection import Selection
from spice_select.information.target import Target, read_target


def select_from_features(
    features: MatrixLike | FeatureRows,
    budget: int,
    alpha: float,
    penalty: float = 0.1,
    stop_ratio: float | None = None,
    target: MatrixLike | Target | None = None,
) -> Selection:
    """Pick up to `budget` rows greedily by score = gain - penalty * conflict (the paper's algorithm 1).

    Ties go to the lower index; scores that differ by rounding alone are ties. The certificate, the curvature and the
    values of rows that were not picked take up to a few times as long as the picks: they are computed from `features`
    when they are first read.

    With a `target`, rows are picked for it, by default by posterior variance, which uses no penalty. A gain counts the
    less, the more the row points against the target (docs/numbers.md). The selection's quantities are those of directed
    features, and its `coverage` says how much of each target row is explained.

    Args:
        features: n x d per-sample gradients, or their projections (tensor, array or nested lists; any real dtype), or
            rows stored elsewhere, such as a gradient store's.
        budget: k, from 1 to n.
        alpha: absolute, applied to features as given.
        penalty: as in `select_from_gram`.
        stop_ratio: as in `select_from_gram`.
        target: t x d gradients of what the model should learn, scaled like `features`, or a `Target` of them.

    Raises:
        SelectionInputError: an argument cannot be used; the message says which, where, and what to do.

    """
    rows = features if isinstance(features, FeatureRows) else TensorFeatures(read_features(features))
    limit = RowLimit(read_budget(budget, rows.rows, "features hold"))
    if target is None:
        return choose_rows(moments_of(rows), limit, alpha, penalty, stop_ratio)
    checked = read_target(as_target(target), rows.dim, rows.device)
    return choose_for_target(targeted(moments_of(rows), checked), limit, alpha, penalty, stop_ratio)
