"""What the methods without gradients know of each row, and how a budget cuts their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class RowFacts:
    """Facts of n rows.

    Attributes:
        trained_tokens: [n] response tokens.
        seed: of the run; for methods that draw.
        conditioned: [n] mean NLL of each response after its prompt; empty where the method needs no model.
        direct: [n] mean NLL of each response alone, or NaN where it has no token to predict; empty as above.

    """

    trained_tokens: Sequence[int]
    seed: int
    conditioned: Sequence[float] = ()
    direct: Sequence[float] = ()


def take_tokens(order: Sequence[int], trained_tokens: Sequence[int], tokens: int) -> list[int]:
    """The prefix of an order whose trained tokens come nearest to `tokens`; at least one row, the shorter of a tie."""
    totals = list(accumulate(trained_tokens[row] for row in order))
    nearest = min(range(len(totals)), key=lambda i: (abs(totals[i] - tokens), i))
    return list(order[: nearest + 1])
