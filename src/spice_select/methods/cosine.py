"""The gradients nearest to the pool's mean direction: the most typical rows.

The mean is over unit gradients, so that every row has one vote whatever its norm.
"""

from typing import cast

from torch import Tensor

from spice_select.methods.directions import cosines


def pick(gram: Tensor, count: int) -> list[int]:
    """The `count` rows with the highest cosine to the mean of all unit gradients; ties go to the lower row."""
    # <u_i, mean u>; the norm of the mean divides all alike and changes no order.
    to_mean = cosines(gram).mean(dim=1)
    return cast(list[int], to_mean.argsort(descending=True, stable=True)[:count].tolist())
