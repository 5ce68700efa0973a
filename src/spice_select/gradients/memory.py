"""Exhausted memory of the host, told in one way."""

from collections.abc import Generator
from contextlib import contextmanager

_WORDS = "DefaultCPUAllocator: can't allocate memory"


@contextmanager
def host_memory() -> Generator[None]:
    """Within the context torch's CPU allocator, which knows only RuntimeError, raises MemoryError as Python does."""
    try:
        yield
    except RuntimeError as error:
        if _WORDS not in str(error):
            raise
        raise MemoryError(str(error).splitlines()[0]) from error
