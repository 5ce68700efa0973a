"""Per-sample gradients of LoRA's factors, taken during one ordinary backward pass over a batch.

For y = W x + s B (A x) with the loss of each sample its own, dA_i = s B^T dy_i^T x_i and dB_i = s dy_i^T (x_i A^T),
where x_i [T, in] and dy_i [T, out] are sample i's inputs and output gradients. In a batch whose summed loss has no term
shared by two samples, the backward pass delivers dy for every sample at once. Nothing but x and dy is needed, and
autograd computes no weight's gradient. A layer whose B A is merged into W runs unchanged, and hooks read x and dy.
In any other, A x and B^T dy are computed once, for the layer's own result and for the factors' gradients, in the type
of x: PEFT widens every activation to its factors' float32.
"""

from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from spice_select.errors import ModelError

Sink = Callable[[str, Tensor], None]
"""Receives a factor's name and its per-sample gradients [b, p] as the backward pass reaches it."""


@dataclass(frozen=True, slots=True)
class AdaptedLayer:
    """A layer with LoRA: `module` computes W x + scaling * B (A x), with A [r, in] and B [out, r].

    `base` computes W x alone, or all of it while `is_merged` says that B A is part of W.
    """

    module: nn.Module
    base: nn.Module
    is_merged: Callable[[], bool]
    a_name: str
    a: nn.Linear
    b_name: str
    b: nn.Linear
    scaling: float

    @property
    def factors(self) -> dict[str, nn.Linear]:
        """Both factors by name."""
        return {self.a_name: self.a, self.b_name: self.b}


def factors_of(layers: Mapping[str, AdaptedLayer]) -> dict[str, nn.Linear]:
    """The factors of `layers` by name, in order."""
    return {name: factor for layer in layers.values() for name, factor in layer.factors.items()}


def factor_gradients(x: Tensor, dy: Tensor, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of LoRA's factors, one of each per sample, [m, r * in] and [m, out * r], flattened, of the type of `x`.

    `x` are inputs [m, T, in], `dy` gradients of the summed loss with respect to the outputs [m, T, out], `down` is
    scaling * A x and `up` scaling * B^T dy, [m, T, r] each.
    """
    return torch.bmm(up.transpose(1, 2), x).flatten(1), torch.bmm(dy.transpose(1, 2), down).flatten(1)


@contextmanager
def captured(
    layers: Mapping[str, AdaptedLayer], rows: int, sink: Sink, wanted: Collection[str] | None = None
) -> Generator[None]:
    """Within the context a backward pass over so many rows hands per-sample gradients to `sink`, last layer first.

    `layers` are all adapted layers of the model, in which no factor may require grad: what they compute is the same
    whichever are `wanted` (names; all when not given). The graph starts at the first wanted layer's output, so nothing
    below it is differentiated. The passes raise `ModelError` if a layer is used more than once, or if its activations
    do not have one entry for each row.
    """
    met: set[str] = set()

    def deliver(name: str, x: Tensor, dy: Tensor, down: Tensor, up: Tensor) -> None:
        if name in met:
            raise ModelError(f"layer {name} is used more than once in a forward pass: not supported as a proxy.")
        met.add(name)
        of_a, of_b = factor_gradients(x, dy, down, up)
        sink(layers[name].b_name, of_b)
        sink(layers[name].a_name, of_a)

    with ExitStack() as undo:
        for name, layer in layers.items():
            taken = partial(deliver, name) if wanted is None or name in wanted else None
            # Subclasses may compute another thing than W x, from quantised weights for example.
            if type(layer.base) in (nn.Linear, Conv1D) and not layer.is_merged():
                layer.module.forward = _apart(name, layer, rows, taken)
                undo.callback(vars(layer.module).pop, "forward")
            elif taken is not None:
                undo.callback(layer.module.register_forward_hook(_watching(name, layer, rows, taken)).remove)
        yield


_Deliver = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Receives a layer's x, dy, scaling * A x and scaling * B^T dy."""


def _watching(
    name: str, layer: AdaptedLayer, rows: int, deliver: _Deliver
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A forward hook for a layer that runs unchanged."""

    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Keep the input, and deliver with the output's gradient."""
        _refuse_mixed(name, args[0], rows)
        if not output.requires_grad:
            output = output.requires_grad_(True).clone()  # models may write into it, but not into a leaf
        x = args[0].detach()

        def on_gradient(dy: Tensor) -> None:
            # PEFT keeps factors in float32 beside layers in another type; under autocast x may be wider than dy.
            inputs = x.to(dy.dtype)
            down, up = inputs @ layer.a.weight.T.to(dy.dtype), dy @ layer.b.weight.to(dy.dtype)
            deliver(inputs, dy, down.mul_(layer.scaling), up.mul_(layer.scaling))

        output.register_hook(on_gradient)
        return output

    return hook


def _apart(name: str, layer: AdaptedLayer, rows: int, deliver: _Deliver | None) -> Callable[[Tensor], Tensor]:
    """What a plain layer with B A apart from W computes in place of its own forward; `deliver` if it is wanted."""
    # What makes autograd record the first wanted layer, and nothing below it.
    start = torch.empty(0, requires_grad=deliver is not None)

    def forward(x: Tensor) -> Tensor:
        _refuse_mixed(name, x, rows)
        flat = cast(Tensor, _Adapted.apply(x, start, layer, deliver))
        return flat.view(*x.shape[:2], -1)  # not in there: models may write into a view only where autograd made it

    return forward


class _Adapted(torch.autograd.Function):
    """W x + bias + scaling * B (A x), [m * T, out]; its backward pass delivers what factors' gradients are made of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _: Tensor, layer: AdaptedLayer, deliver: _Deliver | None) -> Tensor:
        """The layer's output; x and A x are kept where its factors' gradients are wanted."""
        flat, bias, weight = x.flatten(0, 1), cast(Tensor | None, layer.base.bias), cast(Tensor, layer.base.weight)
        weight = weight.T if isinstance(layer.base, Conv1D) else weight  # [out, in]
        a, b = layer.a.weight.to(x.dtype), layer.b.weight.to(x.dtype)
        down = (flat @ a.T).mul_(layer.scaling)
        ctx.save_for_backward(a, b, weight, *((x, down) if deliver is not None else ()))
        ctx.settings = x.shape, layer.scaling, deliver
        result = flat @ weight.T if bias is None else torch.addmm(bias, flat, weight.T)
        return result.addmm_(down, b.T)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """The input's gradient, where anything below needs it."""
        a, b, weight, *kept = ctx.saved_tensors
        shape, scaling, deliver = ctx.settings
        dy = grad_outputs[0]
        up = (dy @ b).mul_(scaling)
        if deliver is not None:
            x, down = kept
            deliver(x, *(part.reshape(*shape[:2], part.shape[1]) for part in (dy, down, up)))
        dx = (dy @ weight).addmm_(up, a).view(shape) if ctx.needs_input_grad[0] else None
        return dx, None, None, None


def _refuse_mixed(name: str, x: Tensor, rows: int) -> None:
    if x.dim() != 3 or len(x) != rows:
        raise ModelError(
            f"layer {name} sees activations of shape {tuple(x.shape)}, not [{rows} rows, tokens, width].\n"
            "Its samples cannot be separated; this architecture is not supported as a proxy."
        )
