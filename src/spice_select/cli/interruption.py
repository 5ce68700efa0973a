"""SIGINT, SIGTERM and SIGHUP end a command in order and soon, with what is kept and how to go on.

Whatever this project writes is whole or absent at every moment, so a command may be ended anywhere. The first signal
raises `Stopped` in the main thread. Where that thread sits in code that does not come back, waiting for another process
or in one long product, a second thread ends the process after `PATIENCE` seconds, or at once when another signal comes.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType

import click

from spice_select.distributed.launch import is_main_process

PATIENCE = 8.0
"""Seconds that the main thread has for its way out."""

TOGETHER = 0.5
"""Seconds within which several signals are one: a closing terminal and a launcher send more than one."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_ENDED = 0
"""In the pipe between signals: the block has ended."""

AT_ONCE = (
    "spice-select: {name}: ended at once. What was done is kept: a begun run goes on with --resume, gradients and a\n"
    "study with the same command.\n"
)


class Stopped(BaseException):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        """`number` of the signal."""
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What shells give for a process that this signal ended."""
        return 128 + self.number


class StoppedError(click.ClickException):
    """The end of a stopped command: what to say."""

    def __init__(self, stop: Stopped, advice: str) -> None:
        """`advice` says what is kept and how to go on."""
        word = "interrupted" if stop.number == signal.SIGINT else f"stopped by {signal.Signals(stop.number).name}"
        super().__init__(f"{word}. {advice}")
        self.stop = stop


@contextmanager
def orderly_signals() -> Generator[None]:
    """For the block, signals raise `Stopped`; those that the caller's shell has switched off (nohup) stay off.

    Outside a process's main thread, where Python takes no signals, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = os.pipe()
    os.set_blocking(heard[1], False)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, _raise_stopped)
    earlier = signal.set_wakeup_fd(heard[1], warn_on_full_buffer=False)
    watch = threading.Thread(target=_end_soon, args=(heard[0],), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(heard[1], b"\0")  # ends the watch, also where a child of ours holds the pipe open
        watch.join()
        os.close(heard[0])
        os.close(heard[1])


@contextmanager
def going_on(advice: Callable[[], str]) -> Generator[None]:
    """Give a stopped block its `advice`: what is kept, and how to go on; asked for when it stops."""
    try:
        yield
    except Stopped as stop:
        raise StoppedError(stop, advice()) from None


def _raise_stopped(number: int, _: FrameType | None) -> None:
    for other in SIGNALS:
        if signal.getsignal(other) is _raise_stopped:
            signal.signal(other, signal.SIG_DFL)  # the next one ends the process at once
    raise Stopped(number)


def _forget() -> None:
    """A forked child takes signals as any process does, and does not tell its parent of them."""
    ours = [number for number in SIGNALS if signal.getsignal(number) is _raise_stopped]
    if ours:
        signal.set_wakeup_fd(-1)
    for number in ours:
        signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)


def _end_soon(heard: int) -> None:
    """Wait for a signal; end the process if it is still there after a while, or when another one comes."""
    first = _next(heard, None)
    while first not in SIGNALS:
        if first == _ENDED:
            return
        first = _next(heard, None)
    stop, begun = signal.Signals(first), time.monotonic()
    while (left := begun + PATIENCE - time.monotonic()) > 0 and (byte := _next(heard, left)) is not None:
        if byte == _ENDED:
            return
        if byte in SIGNALS and time.monotonic() - begun > TOGETHER:
            break
    with suppress(OSError):  # the terminal may be gone
        if is_main_process():
            os.write(2, AT_ONCE.format(name=stop.name).encode())
    os._exit(128 + stop)


def _next(heard: int, seconds: float | None) -> int | None:
    """The next byte of a pipe; None if there is none in time."""
    waiting = select.poll()
    waiting.register(heard, select.POLLIN)
    return os.read(heard, 1)[0] if waiting.poll(None if seconds is None else seconds * 1000) else None
