"""An accelerator's or allocator's exhausted memory as an error that says what helps."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

from spice_select.errors import ModelError
from spice_select.gradients.memory import host_memory


@contextmanager
def memory_advice(doing: str, remedy: str) -> Generator[None]:
    """Within the context, out of memory is a mistake of the user's: what was being done, and what to change.

    Raises:
        ModelError: out of memory.

    """
    try:
        with host_memory():
            yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(f"out of memory while {doing}.\n{remedy}") from error
