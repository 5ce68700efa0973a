"""The Gram matrix K_ij = <g_i, g_j> of a candidate pool, accumulated factor by factor during the backward passes.

A pool that fits one batch needs no stored gradient at all: each factor's block [m, p] is multiplied and dropped. With
several batches the blocks are held per factor until the last one, and then multiplied at once: one large product is
many times quicker than multiplying every batch by those before it. When m * P values would exceed
`memory_bytes`, there are several passes over the pool, each for one group of layers; the result does not depend on the
grouping.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spice_select.gradients.capture import AdaptedLayer, captured, factors_of
from spice_select.gradients.finite import in_order, marked_gram
from spice_select.gradients.loss import TokenRow, collate, response_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HeldGradients:
    """Memory for a pool's gradients until its last batch, reused by the next pool.

    The first write to fresh memory costs as much as the products of what is written there.
    """

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def room(self, factors: Mapping[str, nn.Linear], rows: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """[rows, p] for each factor, with arbitrary content; earlier tensors of this method share the memory."""
        widths = {name: factor.weight.numel() for name, factor in factors.items()}
        device = next(iter(factors.values())).weight.device
        size = rows * sum(widths.values())
        if self._memory is None or self._memory.numel() < size or self._memory.dtype != dtype:
            self._memory = None  # freed before more is allocated
            self._memory = torch.empty(size, dtype=dtype, device=device)
        parts = torch.split(self._memory[:size], [rows * width for width in widths.values()])
        return {name: part.view(rows, -1) for name, part in zip(widths, parts, strict=True)}


class GramAccumulator:
    """Sums K over factors in float64; products are summed in float32 or the gradients' own wider type."""

    def __init__(
        self,
        factors: Mapping[str, nn.Linear],
        batches: Sequence[Sequence[int]],
        device: torch.device,
        held: HeldGradients,
        held_as: torch.dtype,
    ) -> None:
        """`batches` are the row indices of each coming batch, in order; they partition the pool's rows.

        `held` is where gradients wait for the last batch, in the type `held_as`.
        """
        # Apple's GPUs have no float64: there the sum is kept on the CPU.
        self._sum_device = torch.device("cpu") if device.type == "mps" else device
        self._order = torch.tensor([row for batch in batches for row in batch], device=self._sum_device)
        size = len(self._order)
        self._gram = torch.zeros((size, size), dtype=torch.float64, device=self._sum_device)  # in batch order
        # Made before any activation exists: blocks allocated between activations would pin the heap around them.
        rows = rows_held(batches)
        self._held = held.room(factors, rows, held_as) if rows else {}
        self._sizes = iter([len(batch) for batch in batches])
        self._start, self._stop = 0, next(self._sizes)

    def add(self, name: str, gradients: Tensor) -> None:
        """Add the current batch's gradients [b, p] of one factor."""
        if self._held:
            self._held[name][self._start : self._stop] = gradients
        if self._stop == len(self._order):
            self._gram += inner_products(self._held[name] if self._held else gradients).to(self._sum_device)

    def next_batch(self) -> None:
        """Advance to the next batch, when every factor of the current one was added."""
        self._start, self._stop = self._stop, self._stop + next(self._sizes, 0)

    def finish(self) -> Tensor:
        """The symmetric K [m, m] float64, rows and columns in the pool's order."""
        place = self._order.argsort()
        return ((self._gram + self._gram.T) / 2)[place][:, place]


def pool_gram(
    model: "PreTrainedModel",
    layers: Mapping[str, AdaptedLayer],
    rows: Sequence[TokenRow],
    batches: Sequence[Sequence[int]],
    memory_bytes: int,
    held: HeldGradients,
    on_batch: Callable[[Sequence[int]], None] = lambda _: None,
) -> tuple[Tensor, Tensor]:
    """Gram matrix of the per-sample gradients of m `rows` with respect to the factors of the adapted `layers`.

    `model` is the proxy in eval mode; no factor may require grad. `batches` partition range(m), each one forward and
    backward pass; `on_batch` receives each when it is done, in every pass over the pool. Between batches gradients
    take at most `memory_bytes` of `held`, which serves every pool.

    Returns K [m, m] float64 and the rows' losses [m] float32, on the CPU. Row and column of a row whose loss or
    gradient is not finite hold its mark (`finite.py`): NaN or infinity.
    """
    groups = layer_groups(layers, rows_held(batches), memory_bytes, model.dtype)
    device = next(model.parameters()).device
    total = torch.zeros((len(rows), len(rows)), dtype=torch.float64)
    losses_of_batches: list[Tensor] = []  # left on the device, so that nothing waits for it
    for index, group in enumerate(groups):
        members = {name: layers[name] for name in group}
        accumulator = GramAccumulator(factors_of(members), batches, device, held, model.dtype)
        for batch in batches:
            with captured(layers, len(batch), accumulator.add, members):
                losses = response_losses(model, collate([rows[i] for i in batch], device))
                losses.sum().backward()
            accumulator.next_batch()
            if index == 0:
                losses_of_batches.append(losses.detach())
            on_batch(batch)
        total += accumulator.finish().cpu()
    (losses,) = in_order([(part,) for part in losses_of_batches], batches)
    return marked_gram(total, losses), losses


def rows_held(batches: Sequence[Sequence[int]]) -> int:
    """How many rows' gradients are kept: all, until the last batch, or none where one batch holds the pool."""
    return sum(map(len, batches)) if len(batches) > 1 else 0


def layer_groups(
    layers: Mapping[str, AdaptedLayer], held: int, memory_bytes: int, held_as: torch.dtype
) -> list[list[str]]:
    """Cut the layers, in order, into groups whose gradients of `held` rows stay within `memory_bytes`.

    One batch holds nothing, so everything is one group; a single layer above the ceiling is a group of its own.
    """
    groups: list[list[str]] = [[]]
    used = 0
    for name, layer in layers.items():
        size = held * held_as.itemsize * sum(factor.weight.numel() for factor in layer.factors.values())
        if groups[-1] and used + size > memory_bytes:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups


def inner_products(x: Tensor) -> Tensor:
    """Inner products of all rows in at least float32: sums over p terms in bfloat16 would keep only three digits."""
    if x.dtype not in (torch.bfloat16, torch.float16):
        return x @ x.T
    if x.device.type == "cuda":  # sums in float32 without a copy in float32, which a CPU needs
        return torch.mm(x, x.T, out_dtype=torch.float32)
    wide = x.float()
    return wide @ wide.T
