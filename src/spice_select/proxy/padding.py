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
_TOLERANCE = 1e-3  # root mean square, in standard deviations of the logits; a causal model without experts has 0
_NO_LOGIT = 1e30  # models write at least this, or infinity, for entries of the vocabulary that are never used


def refuse_padding_dependent(model: "PreTrainedModel", name: str) -> None:
    """Raise `ModelError` if what follows a short row, padding or other tokens, changes its logits.

    All batches are of one shape, so that rounding is the same; what another row in the batch changes, as experts that
    are shared by all rows may, is allowed for. `model` is in eval mode.
    """
    vocabulary = _vocabulary(model, name)
    places = cast(object, getattr(model.config.get_text_config(), "max_position_embeddings", None))
    length = min(_LONG, places) if isinstance(places, int) and places > 1 else _LONG
    short, generator = min(_SHORT, length // 2), torch.Generator().manual_seed(0)
    # From the middle of the vocabulary, since special tokens are at its ends.
    rows = torch.randint(vocabulary // 4, vocabulary // 2 + 1, (3, length), generator=generator).to(model.device)
    padded = rows[:2].clone()
    padded[0, short:] = 0
    followed, beside = padded.clone(), padded.clone()
    followed[0, short:], beside[1] = rows[2, short:], rows[2]
    with torch.no_grad():
        first, changed, noise = (_logits(model, name, batch)[0, :short] for batch in (padded, followed, beside))
    difference, rounding = _distance(first, changed), _distance(first, noise)
    if not difference <= max(_TOLERANCE, 5.0 * rounding):
        raise ModelError(
            f"{name}: {type(model).__name__} is not causal: a row's logits change by {difference:.2g} standard "
            "deviations with what follows the row.\nIts gradients would depend on the padding, and so on the other "
            "rows of a batch; choose a causal language model."
        )


def _vocabulary(model: "PreTrainedModel", name: str) -> int:
    try:
        return cast(Tensor, model.get_input_embeddings().weight).shape[0]
    except (NotImplementedError, AttributeError) as error:
        raise ModelError(
            f"{name}: {type(model).__name__} has no input embedding; choose a causal language model."
        ) from error


def _distance(one: Tensor, other: Tensor) -> float:
    """Root mean square difference of logits, in their standard deviations; 0 where none is finite."""
    written = (one.abs() < _NO_LOGIT) & (other.abs() < _NO_LOGIT)
    one, other = one[written], other[written]
    if len(one) < 2:
        return 0.0
    return float((one - other).square().mean().sqrt() / one.std().clamp(min=torch.finfo(torch.float32).tiny))


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
