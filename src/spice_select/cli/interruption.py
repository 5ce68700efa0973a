"""SIGINT, SIGTERM and SIGHUP end a command the way Ctrl-C does: the stack unwinds, and one line says how to go on.

Whatever this project writes is whole or absent at every moment, so a command may be interrupted anywhere.
"""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

HOW_TO_GO_ON = "What was written is whole. To go on, give the same command again (run: with --resume)."


class Interrupted(BaseException):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        """`number` of the signal."""
        name = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
        super().__init__(f"{name}. {HOW_TO_GO_ON}")
        self.exit_code = 128 + number  # what shells give for a process that the signal ended


@contextmanager
def signals_interrupt() -> Generator[None]:
    """Raise `Interrupted` where a signal arrives in the block; signals that the caller ignores (nohup) stay ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def interrupt(number: int, _: FrameType | None) -> None:
        for other in taken:  # launchers and closing terminals repeat themselves; a second Ctrl-C ends at once
            signal.signal(other, signal.SIG_DFL if other == signal.SIGINT else signal.SIG_IGN)
        raise Interrupted(number)

    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
