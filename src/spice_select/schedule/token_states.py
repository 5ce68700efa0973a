"""The last hidden states that predict each response token of a pool, for FisherSFT: one forward pass, kept in a file.

The file has no name and is gone with the process. It holds trained tokens * d numbers of the model's own type, so that
nothing is lost, and memory holds as much of it as there is room for.
"""

import mmap
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast, overload

import numpy as np
import torch
from torch import Tensor

from spice_select.errors import ModelError
from spice_select.gradients.loss import TokenRow, collate, of_last_states
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.gradients.states import state_width
from spice_select.pool.examples import Example
from spice_select.pool.lazy_rows import Rows
from spice_select.progress import Progress
from spice_select.proxy.lora import Proxy
from spice_select.schedule.batching import LESS_AT_ONCE

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TokenStates(Sequence[Tensor]):
    """Of each of n rows the states [L, d] on `device`, and [0, d] for those `not_finite`."""

    def __init__(self, examples: Rows[Example], proxy: Proxy, progress: Progress) -> None:
        """Pass over all rows. Raises `ModelError` where memory or the disk is full."""
        counts = examples.trained_tokens.astype(np.int64)
        self._width, self._dtype, self._device = state_width(proxy.model), proxy.model.dtype, proxy.device
        self._starts = [0, *cast("list[int]", (counts.cumsum() * self._width).tolist())]
        self.not_finite = set[int]()
        lengths = examples.tokens.tolist()
        progress.begin("states", len(examples), sum(lengths))
        try:
            with tempfile.TemporaryFile() as file:
                for batch in proxy.batches(lengths):
                    with explain_out_of_memory(LESS_AT_ONCE, "computing states with the proxy model"):
                        states = predicting_states(proxy.model, [examples[row] for row in batch])
                    parts = torch.split(states.cpu(), [int(counts[row]) for row in batch])
                    for row, part in zip(batch, parts, strict=True):
                        file.seek(self._starts[row] * self._dtype.itemsize)
                        file.write(part.contiguous().view(torch.uint8).numpy().tobytes())
                        if not bool(part.float().square().sum().isfinite()):
                            self.not_finite.add(row)
                    progress.advance(len(batch), sum(lengths[row] for row in batch))
                file.flush()
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            size = f"{self._starts[-1] * self._dtype.itemsize / 1e9:,.1f} GB"
            raise ModelError(
                f"the rows' states ({size}) cannot be kept in a temporary file ({error.strerror}).\n"
                "Make room in the folder for temporary files, or name another one by TMPDIR."
            ) from error

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        if index in self.not_finite:
            return torch.empty((0, self._width), dtype=self._dtype, device=self._device)
        start, stop = (self._starts[place] * self._dtype.itemsize for place in (index, index + 1))
        found = torch.frombuffer(bytearray(self._map[start:stop]), dtype=self._dtype)
        return found.view(-1, self._width).to(self._device)


def predicting_states(model: "PreTrainedModel", rows: Sequence[TokenRow]) -> Tensor:
    """What the output layer receives at each place before a trained token, row after row: [trained tokens, d]."""
    batch = collate(rows, model.device)
    return of_last_states(model, batch.input_ids, lambda hidden: hidden[batch.owner, batch.position])
