"""A limit on the time that foreign code may take: chat templates.

The limit uses SIGALRM and the process's timer. Outside the main thread, and where another part of the program uses that
signal or timer, there is none.
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
    """End the context with `OutOfTime` after so many seconds."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL or signal.getitimer(signal.ITIMER_REAL)[0]:
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
