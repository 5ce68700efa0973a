"""RDS+ (Ivison et al., 2025, arXiv 2503.01807): target rows, or targets, take turns taking their nearest row.

Nearness is the cosine. With one target its rows take turns. With several, each takes the row that is nearest to any of
its own. The paper's vectors are weighted means of hidden states; this is its rule, on whatever features a store has.
"""

import torch
from torch import Tensor

from spice_select.methods.nearest import HELD, Aim, Score, best_rows, cosines, take_turns


def score(directions: list[Tensor]) -> Score:
    """How near rows are to each taker: to the rows of a single target, or to the nearest row of each of several."""
    if len(directions) == 1:
        return lambda rows: cosines(rows, directions[0])
    return lambda rows: torch.stack([cosines(rows, own).amax(dim=0) for own in directions])


def pick(aim: Aim) -> list[int]:
    """Rows in the order in which takers take them, as the limit allows; ties go to the lower row."""
    directions = aim.directions
    nearness = score(directions)
    takers = len(directions[0]) if len(directions) == 1 else len(directions)
    return take_turns(aim, lambda closed: best_rows(aim, nearness, max(1, HELD // takers), closed)[0])
