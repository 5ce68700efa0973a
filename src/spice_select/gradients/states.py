"""One vector for a row from the hidden states of the last layer: their mean over the row's tokens, later ones heavier.

s = sum over i = 1..T of (i / (1 + ... + T)) h_i, h_i what the output layer receives at token i: prompt and response
(RDS+, arXiv 2503.01807). One forward pass; the model may be any that computes, quantised ones included.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spice_select.gradients.finite import RowFeatures, in_order, marked
from spice_select.gradients.loss import TokenRow, collate, of_last_states
from spice_select.gradients.memory import halving

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def pooled_states(
    model: "PreTrainedModel",
    rows: Sequence[TokenRow],
    batches: Sequence[Sequence[int]],
    on_batch: Callable[[Sequence[int]], None] = lambda _: None,
) -> RowFeatures:
    """The weighted mean state of each of n `rows`, [n, d] with d the model's width, neither scaled nor normalised.

    `model` is in eval mode. `batches` partition range(n), each one forward pass; one that does not fit a GPU's memory
    is computed in halves. `on_batch` receives each when it is done. Raises `ModelError` if the model has no output
    layer, `torch.OutOfMemoryError` if a GPU has no room for a single row.
    """

    def pool(batch: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        states = _batch_states(model, [rows[i] for i in batch])
        return [(states, states.square().sum(dim=1))]

    done: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        done += halving(pool, batch)
        on_batch(batch)
    features, squared_norms = in_order(done, batches)
    found = marked(features, squared_norms, torch.zeros(len(rows)))  # no loss that could be at fault
    return found._replace(losses=torch.full((len(rows),), torch.nan))


def state_width(model: "PreTrainedModel") -> int:
    """The width d of what the output layer receives, by a pass over one token."""
    token = torch.zeros((1, 1), dtype=torch.int64, device=model.device)
    return _weighted_states(model, token, torch.ones_like(token, dtype=torch.float32)).shape[1]


def _batch_states(model: "PreTrainedModel", rows: Sequence[TokenRow]) -> Tensor:
    """[b, d] float32 on the model's device, of rows that are padded on the right, where no token of theirs looks."""
    input_ids = collate(rows, model.device).input_ids
    lengths = torch.tensor([[len(row.input_ids)] for row in rows], device=model.device)
    places = torch.arange(1, input_ids.shape[1] + 1, device=model.device)
    return _weighted_states(model, input_ids, (places <= lengths) * places / (lengths * (lengths + 1) / 2))


def _weighted_states(model: "PreTrainedModel", input_ids: Tensor, weights: Tensor) -> Tensor:
    """Sums of the states of `input_ids` [b, T] with `weights` [b, T], 0 for padding, in float32: [b, d]."""
    return of_last_states(model, input_ids, lambda hidden: torch.bmm(weights[:, None, :], hidden.float()).squeeze(1))
