"""SIGINT, SIGTERM and SIGHUP end a command: the stack unwinds, and one line says how to continue.

Every file of this project is complete or absent at any moment, so a command may be interrupted anywhere.
"""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from spice_select.distributed.launch import process_count
from spice_select.errors import REPEAT

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CONTINUE = f"Files written so far are complete. To continue, {REPEAT}."


class Interrupted(BaseException):
    """A signal, whose number is the argument, asked the command to end."""


@contextmanager
def signals_interrupt() -> Generator[None]:
    """Raise `Interrupted` where a signal arrives in the block; signals that the caller ignores (nohup) stay ignored.

    In a launch of several processes a signal ends the process at once: one that waits for another inside
    torch.distributed runs no Python code, and so no handler.
    """
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not signal.SIG_IGN}

    def interrupt(number: int, _: FrameType | None) -> None:
        for other in before:  # closing terminals repeat themselves; a second Ctrl-C ends at once
            signal.signal(other, signal.SIG_DFL if other == signal.SIGINT else signal.SIG_IGN)
        raise Interrupted(number)

    for number in before:
        signal.signal(number, interrupt if process_count() == 1 else signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
