"""A limit on the time that a piece of Python code may take, for code that is not ours: chat templates.

The limit rests on SIGALRM, which the process's timer sends. Without one (Windows), outside the main thread, and where
somebody else uses that signal or timer there is no limit. To set and clear a timer for each of a million renderings
would take as long as many of them, so one that is set stays until it goes off: it then ends what has taken too long,
waits on, or, with nothing to watch, leaves the signal as it was.
"""

import atexit
import os
import signal
import threading
import time
from types import FrameType

_TICK = 1.0  # seconds between two looks at the clock


class OutOfTime(Exception):  # noqa: N818 - it is an event, not an error of the program
    """The time was up."""


class _Watch:
    """What is being watched: since when, and for how long it may go on."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.seconds = 0.0
        self.due = 0.0  # when the timer will have gone off
        self.closes = False  # whether `close` is called at the end

    def set_timer(self, now: float) -> None:
        """Have `look` called in a moment, if signal and timer are nobody's or ours."""
        handler = signal.getsignal(signal.SIGALRM)
        if handler is signal.SIG_DFL and not signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.signal(signal.SIGALRM, self.look)
            if not self.closes:
                atexit.register(self.close)
                self.closes = True
        elif handler != self.look:
            return
        wait = min(_TICK, self.seconds / 4)
        self.due = now + 2 * wait
        signal.setitimer(signal.ITIMER_REAL, wait)

    def close(self) -> None:
        """Stop the timer: Python takes its handlers down before it ends, and a signal without one would kill it."""
        if signal.getsignal(signal.SIGALRM) == self.look:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def look(self, _number: int, _frame: FrameType | None) -> None:
        """Take the signal."""
        self.due = 0.0
        if self.began is None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            return
        now = time.monotonic()
        if now - self.began > self.seconds:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            raise OutOfTime(f"it took more than {self.seconds:g} seconds")
        self.set_timer(now)


_watch = _Watch()


class time_limit:  # noqa: N801 - a statement's name; a class, because it is entered for every row
    """Within the context code may take so many seconds, and up to one more; then it ends with `OutOfTime`."""

    __slots__ = ("_seconds",)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        if os.name != "posix" or threading.current_thread() is not threading.main_thread():
            return
        now = time.monotonic()
        _watch.began, _watch.seconds = now, self._seconds
        if now >= _watch.due:
            _watch.set_timer(now)

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is threading.main_thread():
            _watch.began = None
