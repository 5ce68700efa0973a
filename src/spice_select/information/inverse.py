"""The matrix M = (I + alpha F_S)^-1 of a growing set S, kept as what each pick took away from it.

Contract: exact in float64. Adding x appends w = sqrt(alpha / (1 + alpha q_x)) M g_x, so M = I - sum of w w^T, and the
remainder q = g^T M g of any row falls by (w . g)^2: what a block of rows lost since they were last looked at is one
matrix product. Where more picks lie in between than there are directions, the d x d matrix itself is the shorter way.
"""

import torch
from torch import Tensor

from spice_select.information.factor import shifted_cholesky

_FOLD = 128  # picks that wait before they enter the d x d matrix together


class Inverse:
    """M for the picks so far; at most 2 d of the w are kept, and the d x d matrix from d / 2 picks on."""

    def __init__(self, dim: int, alpha: float, capacity: int, device: torch.device):
        """Start with M = I.

        Args:
            dim: d.
            alpha: absolute.
            capacity: the most picks that will be added.
            device: where the features lie.

        """
        self.count = 0
        self._dim = dim
        self._alpha = alpha
        room = min(capacity, 2 * max(dim, _FOLD))
        self._recent = torch.zeros(room, dim, dtype=torch.float64, device=device)  # w of picks `_first` and later
        self._first = 0
        self._dense: Tensor | None = None  # [d, d]: M after the first `_folded` picks
        self._folded = 0

    def start_from(self, moment: Tensor) -> None:
        """Let S hold rows already, whose sum of g g^T is `moment` [d, d]; they do not count as picks."""
        self._dense = torch.cholesky_inverse(shifted_cholesky(self._alpha * moment))

    def times(self, vector: Tensor) -> Tensor:
        """M g for one vector g [d]."""
        later = self._recent[self._folded - self._first : self.count - self._first]
        start = vector if self._dense is None else self._dense @ vector
        return start - (later @ vector) @ later

    def add(self, image: Tensor, remainder: float) -> Tensor:
        """Add x, given `image` = M g_x [d] and its remainder g_x^T M g_x; returns its w [d]."""
        if self.count - self._first == len(self._recent):
            self._forget_half()
        w = image * (self._alpha / (1.0 + self._alpha * remainder)) ** 0.5
        self._recent[self.count - self._first] = w
        self.count += 1
        if self.count >= self._dim // 2 and self.count - self._folded >= _FOLD:
            self._fold()
        return w

    def refreshed(self, block: Tensor, remainders: Tensor, since: Tensor) -> Tensor:
        """Remainders of rows [b, d] now, from those that they had after the first `since` [b] picks.

        A row with `since` -1 has met nothing, not even what S started from.
        """
        result = torch.empty_like(remainders)
        near = since >= max(self._first, self.count - self._dim)
        if bool(near.any()):
            result[near] = self._lowered(block[near], remainders[near], since[near])
        if not bool(near.all()):
            result[~near] = self._from_scratch(block[~near])
        return torch.minimum(result, remainders).clamp_(min=0.0)  # rounding never raises a gain

    def _lowered(self, block: Tensor, remainders: Tensor, since: Tensor) -> Tensor:
        """Each row minus (w . g)^2 over the w it has not met; rows of similar age share one product."""
        order = since.argsort()
        result = torch.empty_like(remainders)
        for part in order.tensor_split(max(1, min(8, len(order) // 32))):
            oldest = int(since[part[0]])
            later = self._recent[oldest - self._first : self.count - self._first]  # [p, d]
            products = block[part] @ later.T  # [b, p]
            unmet = torch.arange(oldest, self.count, device=since.device) >= since[part][:, None]
            result[part] = remainders[part] - (products * unmet).square().sum(dim=1)
        return result

    def _from_scratch(self, block: Tensor) -> Tensor:
        """g^T M g of each row."""
        if self._dense is None or self._folded < self.count:
            self._fold()
        assert self._dense is not None
        return ((block @ self._dense) * block).sum(dim=1)

    def _fold(self) -> None:
        later = self._recent[self._folded - self._first : self.count - self._first]
        if self._dense is None:
            self._dense = torch.eye(self._dim, dtype=later.dtype, device=later.device)
        self._dense.addmm_(later.T, later, alpha=-1.0)
        self._folded = self.count

    def _forget_half(self) -> None:
        if self._folded < self.count:
            self._fold()
        kept = len(self._recent) // 2
        self._recent[:kept] = self._recent[-kept:].clone()
        self._first = self.count - kept
