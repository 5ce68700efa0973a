"""LESS (Xia et al., ICML 2024): the rows whose gradients point most along the mean direction of a target.

A row's score is the highest, over targets, of the mean of its cosines with the target's rows. The paper sums this over
checkpoints, weighed by their learning rates; here there is the one proxy.
"""

import torch
from torch import Tensor

from spice_select.methods.nearest import HELD, Aim, Score, best_rows, cosines, take_turns


def score(directions: list[Tensor]) -> Score:
    """The score of rows for targets of these unit rows, as that of a single taker: [1, b]."""
    means = torch.stack([rows.mean(dim=0) for rows in directions])
    return lambda rows: cosines(rows, means).amax(dim=0, keepdim=True)


def pick(aim: Aim) -> list[int]:
    """Rows by score, highest first, as the limit allows them; ties go to the lower row."""
    by_score = score(aim.directions)
    return take_turns(aim, lambda closed: best_rows(aim, by_score, HELD, closed)[0])
