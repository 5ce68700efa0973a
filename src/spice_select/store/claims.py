"""Claims by which processes share a store's work: locks in a folder of the store."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from spice_select.errors import OutputError
from spice_select.files.locks import claimed as locked
from spice_select.files.locks import holder
from spice_select.store.layout import CLAIMS


@contextmanager
def claimed(store: Path, name: str, *, wait: Callable[[str], None] | None) -> Generator[bool]:
    """Hold the claim `name` for the block.

    Where another process has it, False is yielded at once, or `wait` is told who that is and the block waits for it.

    Raises:
        OutputError: the store cannot be written to, or its file system has no locks.

    """
    directory = store / CLAIMS
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{directory}: cannot be written to ({error.strerror}).\n"
            "Make room or get the right to write there, and give the same command again."
        ) from error
    with locked(directory / name, wait=wait) as held:
        yield held


def holder_of(store: Path, name: str) -> str:
    """Who has the claim `name`, or had it last."""
    return holder(store / CLAIMS / name)


def quietly(holder: str) -> None:
    """How to wait for what takes no time: without a word."""
