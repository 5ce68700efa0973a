"""Per-sample gradients projected from P dimensions (millions) to d, inside the backward pass.

Coordinate i of a factor's gradient is added, with a random sign, to place (i mod w + the factor's offset) mod d. Then
E <Pg, Ph> = <g, h> over the signs, with a standard deviation of about |g| |h| / sqrt(d). The fold w is the largest
number up to d that shares no divisor with the length of the weight's rows: else the entries of one input dimension, of
which a few are often far larger than all others, would meet in few places and not average out. The signs of a factor
depend on the seed, its name and its size alone, never on batches or order.
No P x d matrix exists: a sign is one byte, and projecting is a product and a sum.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spice_select.gradients.capture import AdaptedLayer, captured
from spice_select.gradients.finite import RowFeatures, in_order, marked
from spice_select.gradients.loss import TokenRow, collate, response_losses
from spice_select.gradients.memory import halving

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METHOD = "folded-sign-2"
"""Name and version of the projection; features made by another are not comparable."""


class Projection:
    """A linear map of all factors' gradients to d dimensions."""

    def __init__(self, factors: Mapping[str, nn.Linear], dim: int, seed: int):
        """Draw signs and offsets for the weight gradients of `factors`; d is `dim`, and other seeds are independent."""
        self.dim = dim
        self._signs: dict[str, Tensor] = {}
        self._offsets: dict[str, int] = {}
        self._folds: dict[str, int] = {}
        for name, factor in factors.items():
            digest = hashlib.sha256(f"{METHOD} {seed} {name} {tuple(factor.weight.shape)}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
            self._folds[name] = fold_of(dim, factor.weight.shape[1])
            self._offsets[name] = int(torch.randint(dim, (1,), generator=generator))
            signs = torch.randint(0, 2, (factor.weight.numel(),), generator=generator, dtype=torch.int8) * 2 - 1
            self._signs[name] = signs.to(factor.weight.device)

    def __call__(self, name: str, gradients: Tensor) -> Tensor:
        """Project one factor's gradients [b, p] to its part of the features, [b, d] float32; parts are summed."""
        signed = gradients * self._signs[name]  # [b, p], exact in any type
        rows, fold = len(signed), self._folds[name]
        whole = signed.shape[1] // fold * fold
        blocks = signed[:, :whole].reshape(rows, whole // fold, fold)
        folded = torch.zeros(rows, self.dim, device=signed.device)
        torch.sum(blocks, dim=1, dtype=torch.float32, out=folded[:, :fold])
        rest = signed[:, whole:]
        folded[:, : rest.shape[1]] += rest
        return folded.roll(self._offsets[name], dims=1)


def fold_of(dim: int, width: int) -> int:
    """The largest number up to `dim` that shares no divisor with `width`, the length of a weight's rows.

    Where none is above half of `dim`, as in a few of less than 20, it is `dim`.
    """
    return next((fold for fold in range(dim, dim // 2, -1) if math.gcd(fold, width) == 1), dim)


def project_rows(
    model: "PreTrainedModel",
    layers: Mapping[str, AdaptedLayer],
    rows: Sequence[TokenRow],
    batches: Sequence[Sequence[int]],
    projection: Projection,
    on_batch: Callable[[Sequence[int]], None] = lambda _: None,
    precondition: Callable[[str, Tensor], Tensor] = lambda _, gradients: gradients,
) -> RowFeatures:
    """Projected per-sample gradients of n `rows`; a batch that does not fit a GPU's memory is computed in halves.

    `model` is the proxy in eval mode; no factor of its adapted `layers`, for which `projection` was drawn, may require
    grad. `batches` partition range(n), each one forward and backward pass; `on_batch` receives each when it is done.
    `precondition` is given the name of a factor and its gradients [b, p], and returns what is projected of them.

    Raises `ModelError` if a layer is used twice in a forward pass, `torch.OutOfMemoryError` if a GPU has no
    room for a single row.
    """
    device = next(model.parameters()).device

    def project(batch: Sequence[int]) -> list[tuple[Tensor, Tensor, Tensor]]:
        features = torch.zeros(len(batch), projection.dim, device=device)
        squared_norms = torch.zeros(len(batch), device=device)

        def add(name: str, gradients: Tensor) -> None:
            gradients = precondition(name, gradients)
            features.add_(projection(name, gradients))
            squared_norms.add_(gradients.float().square().sum(dim=1))

        with captured(layers, len(batch), add):
            losses = response_losses(model, collate([rows[i] for i in batch], device))
            losses.sum().backward()
        return [(features, squared_norms, losses.detach())]

    done: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in batches:
        done += halving(project, batch)
        on_batch(batch)
    return marked(*in_order(done, batches))  # only here does this process wait for the device
