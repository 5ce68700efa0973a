"""The largest gradient norms: what the released code of SPICE does by default."""

from torch import Tensor

from spice_select.information import largest_norms


def pick(gram: Tensor, count: int) -> list[int]:
    """The `count` rows with the largest |g|, largest first; ties go to the lower row."""
    return largest_norms(gram, count)
