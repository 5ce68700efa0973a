"""The greedy engine of posterior variance: each pick is the row that explains most of what is left of the target.

Contract: exact in float64, one pass over n x r numbers for each pick. With M = (I + alpha F_S)^-1 and the metric A,
the variance of the target is V(S) = tr(A M), and adding x lowers it by alpha n_x / (1 + alpha q_x), where
n_x = g^T M A M g and q_x = g^T M g. A pick takes M to M - w w^T, with w = sqrt(alpha / (1 + alpha q)) M g. Of any row,
q falls by (w . g)^2 and n changes by -2 (w . g) (u . g) + (w^T A w) (w . g)^2, with u = M A w. (Rule VTL of
Huebotter et al., Transductive Active Learning, NeurIPS 2024, with the metric in place of a sum over target rows.)

V is not submodular, so a stale gain bounds nothing, and every row is brought up to date after every pick.
"""

import torch
from torch import Tensor

from spice_select.information.features import TensorFeatures
from spice_select.information.greedy import Pick, Ties
from spice_select.information.inverse import shifted_cholesky
from spice_select.information.limits import priorities
from spice_select.information.ranks import Ranks, own_range, owner_of

_EXACT = 256
"""Picks after which everything is computed anew from F_S, so that rounding does not add up."""
_BLOCK = 8192
_CACHED = 1 << 17  # numbers that stay in a processor's cache while several vectors are multiplied with them


class VarianceEngine:
    """An `Engine` whose gain is the share of V(empty), or V(given), that a row explains; conflicts are not used."""

    def __init__(
        self, rows: TensorFeatures, metric: Tensor, alpha: float, weights: Tensor | None, before: Tensor | None,
        ranks: Ranks,
    ):  # fmt: skip
        """Start with S empty, or with rows whose sum of g g^T is `before` [r, r].

        `rows` are all n; `weights` [n] multiply gains, or are None.
        """
        self._own, self._count, self._ranks, self._alpha = own_range(rows.rows, ranks), rows.rows, ranks, alpha
        self._rows = rows.block(self._own.start, self._own.stop)  # [m, r], those of this process
        self._metric = metric
        self._moment = torch.zeros_like(metric) if before is None else before.clone()  # F_S without the recent picks
        self._recent = metric.new_zeros(2, _EXACT, len(metric))  # g and w of the recent picks
        self._weights = None if weights is None else weights[self._own.start : self._own.stop].to(metric.device)
        self._numbers = torch.arange(len(self._rows), device=metric.device)
        self._closed = torch.zeros(len(self._rows), dtype=torch.float64, device=metric.device)  # -inf for closed rows
        self._no_conflict = torch.zeros_like(self._closed)
        self._numerators, self._remainders = torch.zeros_like(self._closed), torch.zeros_like(self._closed)
        self._made, self._unit = 0, 1.0
        self._compute_anew()
        variance = float((metric * self._inverse).sum())
        self._unit = alpha / variance if variance > 0 else 0.0
        self._reach = ranks.all_reduce_max(float(self._gains().max()) if len(self._rows) else 0.0)

    def best_row(self) -> int | None:
        """As `Engine.best_row`."""
        ties = Ties(self._reach, 0.0)
        ties.offer(self._numbers, priorities(self._gains(), self._weights) + self._closed, self._no_conflict)
        return ties.lowest(self._ranks, self._own.start)

    def take(self, row: int, least_gain: float) -> Pick | None:
        """As `Engine.take`."""
        alpha, vector = self._alpha, self._vector(row)
        image = self._times(vector)
        remainder = max(0.0, float(vector @ image))
        gain = self._unit * max(0.0, float(image @ self._metric @ image)) / (1.0 + alpha * remainder)
        gain = self._ranks.all_reduce_max(gain)  # processors may round differently, and all must stop at the same pick
        if gain <= least_gain:
            return None
        w = image * (alpha / (1.0 + alpha * remainder)) ** 0.5
        directed = self._metric @ w
        u, square = self._times(directed), float(w @ directed)
        self._recent[:, self._made] = torch.stack([vector, w])
        self._made += 1
        if self._made == _EXACT:
            self._moment.addmm_(self._recent[0].T, self._recent[0])
            self._made = 0
            self._compute_anew()
        else:
            by_w, by_u = self._products(w, u)
            self._numerators += by_w * (square * by_w - 2.0 * by_u)
            self._remainders -= by_w.square()
        if row in self._own:
            self._closed[row - self._own.start] = -torch.inf
        return Pick(row, gain, 0.0)

    def close(self, rows: Tensor) -> None:
        """As `Engine.close`."""
        own = rows[(rows >= self._own.start) & (rows < self._own.stop)]
        self._closed[own.to(self._closed.device) - self._own.start] = -torch.inf

    def _gains(self) -> Tensor:
        return self._unit * self._numerators.clamp(min=0.0) / (1.0 + self._alpha * self._remainders.clamp(min=0.0))

    def _products(self, *vectors: Tensor) -> Tensor:
        """<g, v> for each row g and each vector v [r]: [vectors, m]."""
        found = self._rows.new_empty(len(vectors), len(self._rows))
        step = max(1, _CACHED // len(self._metric))
        for start in range(0, len(self._rows), step):
            block = self._rows[start : start + step]
            for place, vector in enumerate(vectors):  # one product with a matrix of few columns is several times slower
                torch.mv(block, vector, out=found[place, start : start + step])
        return found

    def _times(self, vector: Tensor) -> Tensor:
        """M times a vector [r]."""
        later = self._recent[1, : self._made]
        return self._inverse @ vector - (later @ vector) @ later

    def _vector(self, row: int) -> Tensor:
        own = self._rows[row - self._own.start] if row in self._own else torch.empty_like(self._metric[0])
        return own if self._ranks.size == 1 else self._ranks.broadcast(own, owner_of(row, self._count, self._ranks))

    def _compute_anew(self) -> None:
        """M, and numerators and remainders of all rows, from F_S."""
        identity = torch.eye(len(self._metric), dtype=torch.float64, device=self._metric.device)
        self._inverse = torch.cholesky_solve(identity, shifted_cholesky(self._alpha * self._moment))
        middle = self._inverse @ self._metric @ self._inverse
        for start in range(0, len(self._rows), _BLOCK):
            places = slice(start, start + _BLOCK)
            block = self._rows[places]
            self._numerators[places] = ((block @ middle) * block).sum(dim=1)
            self._remainders[places] = ((block @ self._inverse) * block).sum(dim=1)
