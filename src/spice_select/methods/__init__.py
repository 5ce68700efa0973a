"""The baselines that SPICE is compared with: pure functions, no files, no models.

`GRADIENT_METHODS` pick inside one candidate pool from its Gram matrix [m, m] of unscaled gradients; `ORDERS` rank all
rows of the pool at once from what is known of each row alone; `FOR_TARGET` pick among all rows of a store for a target.
A new method is a function, a line here, its name in `option_values.Method` and, if it is not of the first kind, in
`option_values.WITHOUT_GRADIENTS` or `TARGETED`.
"""

from collections.abc import Callable, Iterable

from torch import Tensor

from spice_select.information import largest_norms
from spice_select.methods import cosine, dpp, fishersft, ifd, less, rds, selectit, tsds
from spice_select.methods.facts import RowFacts, longest, shuffled, take_tokens
from spice_select.methods.nearest import Aim

__all__ = ["FOR_TARGET", "GRADIENT_METHODS", "ORDERS", "Aim", "RowFacts", "take_tokens"]

GRADIENT_METHODS: dict[str, Callable[[Tensor, int], list[int]]] = {
    "norm": largest_norms,  # what the released code of SPICE does by default
    "dpp": dpp.pick,
    "cosine": cosine.pick,
}
"""Name -> (Gram matrix, number of picks) -> places in the pool, first pick first."""

ORDERS: dict[str, Callable[[RowFacts], Iterable[int]]] = {
    "random": shuffled, "longest": longest, "ifd": ifd.order, "selectit": selectit.order, "fishersft": fishersft.order,
}  # fmt: skip
"""Name -> facts of all rows -> row numbers, best first."""

FOR_TARGET: dict[str, Callable[[Aim], list[int]]] = {"less": less.pick, "rds": rds.pick, "tsds": tsds.pick}
"""Name -> rows, targets and a limit -> the rows picked, first pick first."""
