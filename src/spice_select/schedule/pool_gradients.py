"""The Gram matrix of a candidate pool with the proxy as it stands, in as many passes and batches as memory allows."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from spice_select.amounts import GIB
from spice_select.gradients.gram import HeldGradients, layer_groups, pool_gram, rows_held
from spice_select.gradients.memory import out_of_memory
from spice_select.pool.examples import Example
from spice_select.progress import Progress
from spice_select.proxy.lora import Proxy

ROW_TOO_LARGE = "A single row does not fit: lower --max-length, or choose another --model."


@dataclass(slots=True)
class PoolGradients:
    """Computes Gram matrices pool by pool; `proxy` changes when the GPU's memory asks for smaller batches."""

    proxy: Proxy
    memory_gib: float
    progress: Progress
    held: HeldGradients = field(default_factory=HeldGradients)

    def gram(self, rows: Sequence[Example], *, report_passes: bool) -> Tensor:
        """Gram matrix [m, m] float64 of the gradients of `rows`; progress advances by rows and tokens.

        Raises:
            ModelError: a single row exceeds the GPU's memory.

        """
        lengths = [len(row.input_ids) for row in rows]
        memory = int(self.memory_gib * GIB)
        counted: set[int] = set()

        def advance(batch: Sequence[int]) -> None:
            new = set(batch) - counted  # a batch passes several times when memory is short
            counted.update(new)
            self.progress.advance(len(new), sum(lengths[i] for i in new))

        while True:
            batches = self.proxy.batches(lengths)
            if report_passes:
                self._report_passes(batches, memory)
            try:
                return pool_gram(self.proxy.model, self.proxy.layers, rows, batches, memory, self.held, advance)
            except torch.OutOfMemoryError as error:
                smaller = _with_smaller_batches(self.proxy, lengths)
                if smaller is None:
                    raise out_of_memory(ROW_TOO_LARGE) from error
            torch.cuda.empty_cache()
            self.proxy = smaller
            self.progress.note(f"out of memory: continuing with {smaller.token_budget:,} tokens per pass")

    def _report_passes(self, batches: Sequence[Sequence[int]], memory: int) -> None:
        passes = len(layer_groups(self.proxy.layers, rows_held(batches), memory, self.proxy.model.dtype))
        if passes > 1:
            self.progress.note(f"gradients need {passes} passes over each pool; a larger --gradient-memory needs fewer")


def _with_smaller_batches(proxy: Proxy, lengths: Sequence[int]) -> Proxy | None:
    """`proxy` with its token budget halved until the batches change; None if every batch is already a single row."""
    before, smaller = proxy.batches(lengths), proxy
    if all(len(batch) == 1 for batch in before):
        return None
    while smaller.batches(lengths) == before:
        smaller = replace(smaller, token_budget=max(1, smaller.token_budget // 2))
    return smaller
