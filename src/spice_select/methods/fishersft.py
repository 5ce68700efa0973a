"""FisherSFT (Deb et al., ICML 2025, arXiv 2505.14826): the rows whose response tokens span the most.

Greedily argmax log det(V + X_i' X_i) from V = I on, X_i [L_i, d] what the output layer receives where it predicts the
tokens of response i; then V += X_i' X_i. A row's gain only falls as V grows, so that an earlier one bounds it from
above: only rows whose bound reaches the best gain are evaluated again, and the picks are those of evaluating all.

A gain is log det(I + Z'Z), Z = C^-1 X_i' with V = C C', or log det(I + ZZ') where that is smaller: about L_i d^2
products; a pick adds d^3 / 3. Held are V and C, [d, d] float64, and the X_i of one row.
"""

import heapq
import math
from collections.abc import Generator
from typing import cast

import torch
from torch import Tensor

from spice_select.methods.facts import RowFacts

TIE = 1e-6
"""Share of the best gain within which gains tie: the states' own rounding, which depends on the batches."""


def order(facts: RowFacts) -> Generator[int]:
    """Rows in the order of picking, each found when it is asked for; ties go to the lower row."""
    dim = facts.states[0].shape[1]
    v = torch.eye(dim, dtype=torch.float64, device=facts.states[0].device)
    factor, first = v, True
    bounds = [(-_gain(factor, facts.states[row]), row) for row in range(len(facts.trained_tokens))]
    heapq.heapify(bounds)
    while bounds:
        best, contenders = -math.inf, list[tuple[float, int]]()
        while bounds and -bounds[0][0] >= best * (1.0 - TIE):
            bound, row = heapq.heappop(bounds)
            gain = -bound if first else _gain(factor, facts.states[row])
            contenders.append((gain, row))
            best = max(best, gain)
        taken = min(row for gain, row in contenders if gain >= best * (1.0 - TIE))
        for gain, row in contenders:
            if row != taken:
                heapq.heappush(bounds, (-gain, row))
        yield taken
        states = facts.states[taken].double()
        v = v + states.T @ states
        factor, first = cast(Tensor, torch.linalg.cholesky(v)), False


def _gain(factor: Tensor, states: Tensor) -> float:
    """Log det(V + X'X) - log det V for the Cholesky factor [d, d] of V and states X [L, d]."""
    z = cast(Tensor, torch.linalg.solve_triangular(factor, states.double().T, upper=False))
    small = z.T @ z if z.shape[1] <= z.shape[0] else z @ z.T
    small.diagonal().add_(1.0)
    return max(0.0, 2.0 * float(cast(Tensor, torch.linalg.cholesky(small)).diagonal().log().sum()))
