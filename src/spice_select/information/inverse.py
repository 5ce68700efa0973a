"""Factors of I + alpha F, and the matrix M = (I + alpha F_S)^-1 of a growing set S.

Contract: exact in float64, also where F is so large that rounding hides the I. Adding x appends
w = sqrt(alpha / (1 + alpha q_x)) M g_x, so M = I - sum of w w^T, and the remainder q = g^T M g of any row falls by
(w . g)^2: what a block of rows lost since it was last evaluated is one matrix product. Where more picks lie in between
than there are dimensions, the d x d matrix itself is cheaper.
"""

from typing import cast

import torch
from torch import Tensor

_FOLD = 128  # picks that wait before they enter the d x d matrix together


def shifted_cholesky(scaled: Tensor) -> Tensor:
    """The lower factor L of I + `scaled` = L L^T, for a positive semidefinite `scaled` [d, d]."""
    matrix = scaled + torch.eye(len(scaled), dtype=scaled.dtype, device=scaled.device)
    factor, failed = cast(tuple[Tensor, Tensor], torch.linalg.cholesky_ex(matrix))
    if not int(failed):
        return factor
    # Eigenvalues below 1 are rounding. With them raised, V sqrt(values) is a root, whose QR gives the triangular one.
    values, vectors = cast(tuple[Tensor, Tensor], torch.linalg.eigh(matrix))
    root = vectors * values.clamp(min=1.0).sqrt()
    upper = cast(tuple[Tensor, Tensor], torch.linalg.qr(root.T))[1]
    return (upper * upper.diagonal().sign()[:, None]).T


def log_det_shifted(scaled: Tensor) -> float:
    """Log det(I + `scaled`) of a positive semidefinite `scaled` [d, d]."""
    return 2.0 * float(shifted_cholesky(scaled).diagonal().log().sum())


class Inverse:
    """M for the picks so far; at most 2 d of the w are kept, and the d x d matrix from d / 2 picks on."""

    def __init__(self, dim: int, alpha: float, capacity: int, device: torch.device, given: Tensor | None = None):
        """Start with no picks; `given` is the sum of g g^T [d, d] over rows in S from the start, which are no picks."""
        self.count = 0
        self._dim, self._alpha = dim, alpha
        room = min(capacity, 2 * max(dim, _FOLD))
        self._recent = torch.zeros(room, dim, dtype=torch.float64, device=device)  # w of picks `_first` and later
        self._first = 0
        # [d, d]: M after the first `_folded` picks
        self._dense = None if given is None else torch.cholesky_inverse(shifted_cholesky(alpha * given))
        self._folded = 0

    def times(self, vector: Tensor) -> Tensor:
        """M g for one vector g [d]."""
        later = self._later(self._folded)
        start = vector if self._dense is None else self._dense @ vector
        return start - (later @ vector) @ later

    def add(self, image: Tensor, remainder: float) -> Tensor:
        """Add x, given `image` = M g_x [d] and its remainder g_x^T M g_x; returns its w [d]."""
        if self.count - self._first == len(self._recent):
            self._fold()
            kept = len(self._recent) // 2
            self._recent[:kept] = self._recent[-kept:].clone()
            self._first = self.count - kept
        w = image * (self._alpha / (1.0 + self._alpha * remainder)) ** 0.5
        self._recent[self.count - self._first] = w
        self.count += 1
        if self.count >= self._dim // 2 and self.count - self._folded >= _FOLD:
            self._fold()
        return w

    def remainders(self, block: Tensor, earlier: Tensor, since: Tensor) -> Tensor:
        """Remainders of rows [b, d] now, from the `earlier` [b] ones that they had after the first `since` [b] picks.

        A row with `since` -1 has not been evaluated with what S held from the start.
        """
        result = torch.empty_like(earlier)
        near = since >= max(self._first, self.count - self._dim)
        if bool(near.any()):
            result[near] = self._lowered(block[near], earlier[near], since[near])
        if not bool(near.all()):
            self._fold()
            assert self._dense is not None
            far = block[~near]
            result[~near] = ((far @ self._dense) * far).sum(dim=1)
        return torch.minimum(result, earlier).clamp_(min=0.0)  # rounding never raises a gain

    def _lowered(self, block: Tensor, earlier: Tensor, since: Tensor) -> Tensor:
        """Each row minus (w . g)^2 over the picks after its `since`; rows of similar age share one product."""
        order = since.argsort()
        result = torch.empty_like(earlier)
        for part in order.tensor_split(max(1, min(8, len(order) // 32))):
            oldest = int(since[part[0]])
            products = block[part] @ self._later(oldest).T  # [b, p]
            later = torch.arange(oldest, self.count, device=since.device) >= since[part][:, None]
            result[part] = earlier[part] - (products * later).square().sum(dim=1)
        return result

    def _later(self, pick: int) -> Tensor:
        return self._recent[pick - self._first : self.count - self._first]

    def _fold(self) -> None:
        if self._dense is None:
            self._dense = torch.eye(self._dim, dtype=torch.float64, device=self._recent.device)
        later = self._later(self._folded)
        self._dense.addmm_(later.T, later, alpha=-1.0)
        self._folded = self.count
