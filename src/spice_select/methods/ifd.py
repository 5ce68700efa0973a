"""Instruction-following difficulty (Li et al., From Quantity to Quality, NAACL 2024).

IFD = L(A | Q) / L(A): the mean NLL of the response after its prompt over that of the response alone. High means that
the prompt helps little, which the paper takes for a hard and thus valuable row; from 1 on the prompt does not help at
all, which the paper takes for a row whose answer does not belong to its question, and leaves out.

After its prompt a response of T trained tokens has T losses, alone it has T - 1, for nothing predicts its first token.
In a conversation of several turns the response is all that the assistant says, joined.
"""

import math
from collections.abc import Sequence

from spice_select.methods.facts import RowFacts


def difficulty(conditioned: Sequence[float], direct: Sequence[float]) -> list[float]:
    """IFD of each row, [n]; NaN where the response alone has no NLL (a single token) or an NLL of 0."""
    return [c / d if d > 0 else math.nan for c, d in zip(conditioned, direct, strict=True)]


def order(facts: RowFacts) -> list[int]:
    """Rows by IFD, highest below 1 first, then those from 1 on, lowest first, then those without; ties by row."""
    scores = difficulty(facts.conditioned, facts.direct)

    def place(row: int) -> tuple[int, float, int]:
        score = scores[row]
        if math.isnan(score):
            return 2, 0.0, row
        return (0, -score, row) if score < 1 else (1, score, row)

    return sorted(range(len(scores)), key=place)
