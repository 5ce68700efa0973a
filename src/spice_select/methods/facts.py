"""Facts of each row for the methods without gradients, two orders that need no model, and the cut of an order."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RowFacts:
    """Facts of n rows."""

    trained_tokens: Sequence[int]  # [n] response tokens
    seed: int  # of the run, for methods that draw
    # [n] mean NLL of each response after its prompt; empty where the method needs no model
    conditioned: Sequence[float] = ()
    # [n] mean NLL of each response alone, or NaN where it has no token to predict; empty as above
    direct: Sequence[float] = ()
    sources: Sequence[str] = ()  # [n] where sources take turns, else empty
    scores: Sequence[float] = ()  # [n] of a method that scores each row by itself; NaN where there is none
    # [n] of each row the last hidden states [L, d] that predict its response tokens, [0, d] where a row cannot be used
    states: Sequence[Tensor] = ()


def longest(facts: RowFacts) -> list[int]:
    """Rows by response tokens, longest first (Zhao et al., ICML 2024); ties go to the lower row."""
    return sorted(range(len(facts.trained_tokens)), key=lambda row: (-facts.trained_tokens[row], row))


def shuffled(facts: RowFacts) -> list[int]:
    """A seeded permutation: what every method has to beat, at equal rows or equal tokens.

    Where sources take turns, each gives a row in every turn while it has any; rows of a turn stay in the permutation's
    order, so that no source comes first in all of them.
    """
    order: list[int] = np.random.default_rng([facts.seed, 0]).permutation(len(facts.trained_tokens)).tolist()
    if not facts.sources:
        return order
    turns, given = dict[int, int](), Counter[str]()
    for row in order:
        turns[row] = given[facts.sources[row]]
        given[facts.sources[row]] += 1
    return sorted(order, key=turns.__getitem__)


def take_tokens(order: Sequence[int], trained_tokens: Sequence[int], tokens: int) -> list[int]:
    """The prefix of an order whose trained tokens come nearest to `tokens`; at least one row, the shorter of a tie."""
    totals = list(accumulate(trained_tokens[row] for row in order))
    nearest = min(range(len(totals)), key=lambda i: (abs(totals[i] - tokens), i))
    return list(order[: nearest + 1])
