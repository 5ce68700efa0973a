"""Exhausted memory, of a GPU or of the host, as an error that says what helps."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

from spice_select.errors import ModelError

PASSES = "computing gradients with the proxy model"
_CPU_ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"


@contextmanager
def explain_out_of_memory(remedy: str, doing: str = PASSES) -> Generator[None]:
    """Turn exhausted memory within the context into a user's error: "out of memory while `doing`", then `remedy`.

    Raises:
        ModelError: out of memory.

    """
    try:
        with host_memory():
            yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(remedy, doing) from error


def out_of_memory(remedy: str, doing: str = PASSES) -> ModelError:
    """The error that `explain_out_of_memory` raises."""
    return ModelError(f"out of memory while {doing}.\n{remedy}")


@contextmanager
def host_memory() -> Generator[None]:
    """Raise MemoryError, as Python does, where torch's CPU allocator raises a plain RuntimeError within the context."""
    try:
        yield
    except RuntimeError as error:
        if _CPU_ALLOCATOR not in str(error):
            raise
        raise MemoryError(str(error).splitlines()[0]) from error
