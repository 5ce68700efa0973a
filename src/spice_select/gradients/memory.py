"""Exhausted memory, of a GPU or of the host: smaller batches, and errors that say what helps."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from spice_select.errors import ModelError

T = TypeVar("T")

PASSES = "computing gradients with the proxy model"
_CPU_ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"


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


@contextmanager
def explain_out_of_memory(remedy: str, doing: str = PASSES) -> Generator[None]:
    """Turn exhausted memory within the context into a user's error: "out of memory while `doing`", then `remedy`.

    Raises `ModelError` if memory runs out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        exhausted = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _CPU_ALLOCATOR in str(error)
        if not exhausted:
            raise
        raise out_of_memory(remedy, doing) from error


def out_of_memory(remedy: str, doing: str = PASSES) -> ModelError:
    """The error that `explain_out_of_memory` raises."""
    return ModelError(f"out of memory while {doing}.\n{remedy}")
