"""A limit on the time that code which is not ours may take: chat templates.

The limit rests on SIGALRM and the process's timer. Outside the main thread, and where somebody else uses that signal or
timer, there is none.
"""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(Exception):  # noqa: N818 - it is an event, not an error of the program
    """The time was up."""


@contextmanager
def time_limit(seconds: float) -> Generator[None]:
    """Within the context code may take so many seconds; then it ends with `OutOfTime`."""
    if not _is_free():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTime(f"it took more than {seconds:g} seconds")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _is_free() -> bool:
    """Whether this thread may take the signal, and nobody else waits for it."""
    if threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and not signal.getitimer(signal.ITIMER_REAL)[0]
