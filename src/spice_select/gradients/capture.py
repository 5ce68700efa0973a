"""Per-sample gradients of linear layers, taken by hooks during one ordinary backward pass over a batch.

For y = x W^T the gradient of sample i's loss is dW_i = dy_i^T x_i. In a batch whose summed loss has no term shared by
two samples, the backward pass delivers dy for every sample at once, so one batched product gives all dW_i. Autograd's
own weight gradient is switched off (the weights must not require grad): nothing is computed twice.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spice_select.errors import ModelError

Sink = Callable[[str, Tensor], None]
"""Receives a module's name and its per-sample gradients [b, p] as the backward pass reaches it."""


def per_sample_weight_gradient(x: Tensor, dy: Tensor) -> Tensor:
    """Gradients of a bias-free linear layer's weight, one per sample.

    Args:
        x: inputs [b, T, in].
        dy: gradients of the summed loss with respect to the outputs [b, T, out].

    Returns:
        [b, out * in], row i the flattened dy_i^T x_i.

    """
    return torch.bmm(dy.transpose(1, 2), x).flatten(1)


@contextmanager
def captured(modules: Mapping[str, nn.Linear], sink: Sink) -> Generator[None]:
    """Within the context one backward pass hands each module's per-sample gradients to `sink`, last layer first.

    The graph starts at the first captured module's output, so nothing below it is differentiated.

    Raises:
        ModelError: in the passes: a layer is used more than once, so that its gradient is a sum of several.

    """
    met: set[str] = set()

    def once(name: str, gradients: Tensor) -> None:
        if name in met:
            raise ModelError(f"layer {name} is used more than once in a forward pass: not supported as a proxy.")
        met.add(name)
        sink(name, gradients)

    handles = [module.register_forward_hook(_forward_hook(name, once)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _forward_hook(name: str, sink: Sink) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep the input, and have the output's gradient delivered."""
        if output.dim() != 3:
            raise ModelError(
                f"layer {name} sees activations of shape {tuple(args[0].shape)}, not [rows, tokens, width].\n"
                "Its samples cannot be told apart; this architecture is not supported as a proxy."
            )
        if not output.requires_grad:
            output.requires_grad_(True)
        x = args[0].detach()

        def deliver(dy: Tensor) -> None:
            sink(name, per_sample_weight_gradient(x, dy))

        output.register_hook(deliver)

    return hook
