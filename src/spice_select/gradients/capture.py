"""Per-sample gradients of LoRA's factors, taken by hooks during one ordinary backward pass over a batch.

For y = W x + s B (A x) with the loss of each sample its own, dA_i = s B^T dy_i^T x_i and dB_i = s dy_i^T (x_i A^T),
where x_i [T, in] and dy_i [T, out] are sample i's inputs and output gradients. In a batch whose summed loss has no term
shared by two samples, the backward pass delivers dy for every sample at once. Nothing but x and dy is needed: whether
the layer computes B A apart from W or merged into it, and autograd computes no weight's gradient.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spice_select.errors import ModelError

Sink = Callable[[str, Tensor], None]
"""Receives a factor's name and its per-sample gradients [b, p] as the backward pass reaches it."""


@dataclass(frozen=True, slots=True)
class AdaptedLayer:
    """A layer with LoRA: `module` computes W x + scaling * B (A x), with A [r, in] and B [out, r]."""

    module: nn.Module
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


def factor_gradients(x: Tensor, dy: Tensor, a: Tensor, b: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Gradients of LoRA's factors, one of each per sample.

    Args:
        x: inputs [m, T, in].
        dy: gradients of the summed loss with respect to the outputs [m, T, out].
        a: A [r, in].
        b: B [out, r].
        scaling: LoRA's factor on B A.

    Returns:
        [m, r * in] and [m, out * r] of the type of `x`: row i is the flattened gradient of sample i.

    """
    # PEFT keeps factors in float32 beside layers in bfloat16.
    down = x @ a.T.to(x.dtype)  # [m, T, r]
    up = (dy @ b.to(dy.dtype)).mul_(scaling)  # [m, T, r]
    of_a = torch.bmm(up.transpose(1, 2), x)
    of_b = torch.bmm(dy.transpose(1, 2), down.mul_(scaling))
    return of_a.flatten(1), of_b.flatten(1)


@contextmanager
def captured(layers: Mapping[str, AdaptedLayer], sink: Sink) -> Generator[None]:
    """Within the context one backward pass hands each factor's per-sample gradients to `sink`, last layer first.

    The graph starts at the first captured layer's output, so nothing below it is differentiated. No factor may require
    grad.

    Raises:
        ModelError: in the passes: a layer is used more than once, so that its gradient is a sum of several.

    """
    met: set[str] = set()

    def once(name: str, layer: AdaptedLayer, x: Tensor, dy: Tensor) -> None:
        if name in met:
            raise ModelError(f"layer {name} is used more than once in a forward pass: not supported as a proxy.")
        met.add(name)
        of_a, of_b = factor_gradients(x, dy, layer.a.weight, layer.b.weight, layer.scaling)
        sink(layer.b_name, of_b)
        sink(layer.a_name, of_a)

    handles = [layer.module.register_forward_hook(_forward_hook(name, layer, once)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _forward_hook(
    name: str, layer: AdaptedLayer, deliver: Callable[[str, AdaptedLayer, Tensor, Tensor], None]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Keep the input, and have the output's gradient delivered."""
        if output.dim() != 3:
            raise ModelError(
                f"layer {name} sees activations of shape {tuple(args[0].shape)}, not [rows, tokens, width].\n"
                "Its samples cannot be told apart; this architecture is not supported as a proxy."
            )
        if not output.requires_grad:
            output = output.requires_grad_(True).clone()  # models may write into it, but not into a leaf
        x = args[0].detach()

        def on_gradient(dy: Tensor) -> None:
            deliver(name, layer, x, dy)

        output.register_hook(on_gradient)
        return output

    return hook
