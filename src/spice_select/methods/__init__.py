"""The baselines that SPICE is compared with: pure functions, no files, no models.

`GRADIENT_METHODS` pick inside one candidate pool from its Gram matrix [m, m] of unscaled gradients; `ORDERS` rank all
rows of the pool at once from what is known of each row alone. A new method is a function, a line here, its name in
`option_values.Method` and, if it is an order, in `option_values.WITHOUT_GRADIENTS`.
"""

from collections.abc import Callable

from torch import Tensor

from spice_select.information import largest_norms
from spice_select.methods import cosine, dpp, ifd
from spice_select.methods.facts import RowFacts, longest, shuffled, take_tokens

__all__ = ["GRADIENT_METHODS", "ORDERS", "RowFacts", "take_tokens"]

GRADIENT_METHODS: dict[str, Callable[[Tensor, int], list[int]]] = {
    "norm": largest_norms,  # what the released code of SPICE does by default
    "dpp": dpp.pick,
    "cosine": cosine.pick,
}
"""Name -> (Gram matrix, number of picks) -> places in the pool, first pick first."""

ORDERS: dict[str, Callable[[RowFacts], list[int]]] = {"random": shuffled, "longest": longest, "ifd": ifd.order}
"""Name -> facts of all rows -> all row numbers, best first."""
