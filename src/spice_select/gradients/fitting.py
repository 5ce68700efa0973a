"""A batch that does not fit a GPU's memory is processed in smaller ones."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def halving(process: Callable[[Sequence[int]], list[T]], batch: Sequence[int]) -> list[T]:
    """Apply `process` to `batch`, or to each half where memory runs out, and so on; results in order.

    Raises:
        torch.OutOfMemoryError: a single row is too much.

    """
    try:
        return process(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Outside the handler: the failed attempt's tensors live as long as its exception.
    torch.cuda.empty_cache()
    middle = len(batch) // 2
    return halving(process, batch[:middle]) + halving(process, batch[middle:])
