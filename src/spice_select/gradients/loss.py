"""The loss whose gradient is selected on: each example's own mean negative log-likelihood of its trained tokens.

Rows are padded on the right and the model is causal, so no token of a row ever sees the padding: no attention mask is
needed, and the padding's gradient is exactly zero.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from spice_select.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


LOGITS_AT_ONCE = 1 << 23
"""Logits that are widened together: few enough to stay in the processor's cache from one operation to the next."""

ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Without cuDNN's, which plans anew for every shape of a batch: milliseconds a layer."""


class TokenRow(Protocol):
    """What a batch needs of an example: its tokens and which of them are trained."""

    @property
    def input_ids(self) -> npt.NDArray[np.int32]:
        """[tokens]."""
        ...

    @property
    def trained(self) -> npt.NDArray[np.bool_]:
        """[tokens]."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded rows on the model's device, and their n trained tokens in row-major order.

    What depends on the data's shape is computed on the CPU, so that no pass waits for the device.
    """

    input_ids: Tensor  # [b, T] int64
    owner: Tensor  # [n] int64, the row of each trained token
    position: Tensor  # [n] int64, the place that predicts it: the one before its own
    targets: Tensor  # [n] int64, the trained tokens
    counts: Tensor  # [b] float32, trained tokens of each row


def collate(rows: Sequence[TokenRow], device: torch.device) -> Batch:
    """Pad `rows` on the right to the longest, mark the places that predict trained tokens, and send all to `device`."""
    width = max(len(row.input_ids) for row in rows)
    input_ids = np.zeros((len(rows), width), dtype=np.int64)
    predicts = np.zeros((len(rows), width), dtype=np.bool_)
    for i, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[i, :length] = row.input_ids
        predicts[i, : length - 1] = row.trained[1:]
    owner, position = predicts.nonzero()
    counts = predicts.sum(axis=1).astype(np.float32)
    parts = (input_ids, owner, position, input_ids[owner, position + 1], counts)
    tensors = [torch.from_numpy(part) for part in parts]
    if device.type == "cuda":  # from pinned memory, so that this process does not wait for the copy
        tensors = [tensor.pin_memory() for tensor in tensors]
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))


def response_losses(model: "PreTrainedModel", batch: Batch) -> Tensor:
    """Mean NLL over the trained tokens of each row: [b] float32, differentiable.

    The output layer runs only on positions that predict a trained token, so logits are [n, V], never [b, T, V].
    """

    def predicting(hidden: Tensor) -> Tensor:
        return hidden[batch.owner, batch.position].unsqueeze(0)

    with output_layer_given(model, batch.input_ids.shape, predicting), sdpa_kernel(ATTENTION):
        logits: Tensor = model(input_ids=batch.input_ids, use_cache=False).logits.squeeze(0)  # [n, V]
    nll = cast(Tensor, _TokenNll.apply(logits, batch.targets))
    total = torch.zeros_like(batch.counts).index_add(0, batch.owner, nll)
    return total / batch.counts.clamp(min=1)


class _TokenNll(torch.autograd.Function):
    """Cross-entropy of each token in float32 that holds the [n, V] logits once, in their own type.

    Autograd's own form keeps three such arrays, all in float32.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses [n] float32 of the tokens `targets` [n]."""
        normaliser = torch.cat([part.float().logsumexp(dim=-1) for part in _parts(logits, logits.shape[1])])
        ctx.save_for_backward(logits, targets, normaliser)
        return normaliser - logits.gather(1, targets[:, None]).squeeze(1).float()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """The logits' gradient, written over the logits, which nothing reads after this."""
        logits, targets, normaliser = ctx.saved_tensors
        vectors = (_parts(vector, logits.shape[1]) for vector in (logits, targets, normaliser, grad_outputs[0]))
        for part, target, subtracted, factor in zip(*vectors, strict=True):
            gradient = part.float().sub_(subtracted[:, None]).exp_()
            gradient[torch.arange(len(target), device=target.device), target] -= 1.0
            part.copy_(gradient.mul_(factor[:, None]))
        return logits, None


def _parts(tensor: Tensor, vocabulary: int) -> tuple[Tensor, ...]:
    """`tensor` [n, ...] in views of as many tokens as have `LOGITS_AT_ONCE` logits."""
    return torch.split(tensor, max(1, LOGITS_AT_ONCE // vocabulary))


@contextmanager
def output_layer_given(
    model: "PreTrainedModel", shape: Sequence[int], chosen: Callable[[Tensor], Tensor]
) -> Generator[None]:
    """Within the context, the output layer sees `chosen` of the last hidden states [b, T, d]; `shape` is b, T.

    Raises `ModelError` if there is no output layer; the pass does if it is called on anything else.
    """
    head = cast(object, model.get_output_embeddings())
    if not isinstance(head, nn.Module):
        raise ModelError(
            f"{type(model).__name__} has no output embedding: not a causal language model.\n"
            "Choose a proxy that AutoModelForCausalLM loads."
        )

    def keep_chosen(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        if hidden.shape[:2] != shape:
            raise ModelError(
                f"{type(model).__name__} calls its output layer on a tensor of shape {tuple(hidden.shape)}, "
                f"not on [rows, tokens, width]: this architecture is not supported as a proxy."
            )
        return (chosen(hidden), *args[1:])

    handle = head.register_forward_pre_hook(keep_chosen)
    try:
        yield
    finally:
        handle.remove()


def of_last_states(model: "PreTrainedModel", input_ids: Tensor, chosen: Callable[[Tensor], Tensor]) -> Tensor:
    """What `chosen` makes of the last hidden states [b, T, d] by a forward pass over `input_ids` [b, T].

    Raises `ModelError` as `output_layer_given`.
    """
    found: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        found.append(chosen(hidden))
        return hidden[:1, :1]  # the logits are of no use

    with torch.inference_mode(), output_layer_given(model, input_ids.shape, keep), sdpa_kernel(ATTENTION):
        model(input_ids=input_ids, use_cache=False)
    return found[0]
