"""Work that meets the end of a GPU's memory goes on in smaller pieces."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def halving(work: Callable[[Sequence[int]], list[T]], batch: Sequence[int]) -> list[T]:
    """`work` on `batch`, or where its memory does not suffice on each half, and so on; results in order.

    Raises:
        torch.OutOfMemoryError: a single row is too much.

    """
    try:
        return work(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Outside the handler: the failed attempt's tensors live as long as its exception.
    torch.cuda.empty_cache()
    middle = len(batch) // 2
    return halving(work, batch[:middle]) + halving(work, batch[middle:])
