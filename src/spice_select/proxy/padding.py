"""Whether a model may be given rows padded on the right, without an attention mask: decided by its numbers.

A causal model never sees what comes after a token. A bidirectional one, or one that expects padding on the left, does:
its losses and gradients then depend on the other rows of a batch.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from spice_select.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHORT, _LONG = 4, 24  # tokens of the two rows
_TOLERANCE, _ROUGH_TOLERANCE = 1e-3, 0.2
"""Root mean square by which logits may differ, in their standard deviations: in float32, and in 16 bits."""


def refuse_padding_dependent(model: "PreTrainedModel", name: str) -> None:
    """Raise `ModelError` if a short row's logits alone and padded beside a longer row differ by more than rounding.

    Both rows are random tokens; `model` is in eval mode, in float32 or bfloat16.
    """
    vocabulary = cast(Tensor, model.get_input_embeddings().weight).shape[0]
    generator = torch.Generator().manual_seed(0)
    # From the middle of the vocabulary, since special tokens are at its ends.
    batch = torch.randint(vocabulary // 4, vocabulary // 2 + 1, (2, _LONG), generator=generator).to(model.device)
    batch[0, _SHORT:] = 0
    with torch.no_grad():
        alone, padded = _logits(model, name, batch[:1, :_SHORT]), _logits(model, name, batch)[:1, :_SHORT]
    difference = float((alone - padded).square().mean().sqrt() / alone.std())
    if difference > (_TOLERANCE if model.dtype == torch.float32 else _ROUGH_TOLERANCE):
        raise ModelError(
            f"{name}: {type(model).__name__} is not causal: a row's logits change by {difference:.2g} standard "
            "deviations when padding follows it.\nIts gradients would depend on the other rows of a batch; choose a "
            "causal language model."
        )


def _logits(model: "PreTrainedModel", name: str, tokens: Tensor) -> Tensor:
    try:
        return model(input_ids=tokens, use_cache=False).logits.float()
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ModelError(
            f"{name}: {type(model).__name__} cannot read a batch of tokens ({type(error).__name__}: {reason}).\n"
            "Choose a causal language model."
        ) from error
