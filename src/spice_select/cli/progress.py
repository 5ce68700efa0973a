"""Progress of a run: a live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from spice_select.schedule.progress import Progress

PLAIN_INTERVAL = 15.0
"""Seconds between two plain progress lines."""


@contextmanager
def progress_on(stream: TextIO) -> Generator[Progress]:
    """A progress display fit for `stream`."""
    if not stream.isatty():
        yield PlainProgress(stream)
        return
    console = Console(file=stream)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows  {task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with RichProgress(*columns, console=console, transient=True) as bar:
        yield LiveProgress(bar)


class _Rate:
    """Rows a second of this process's own work."""

    def __init__(self) -> None:
        self.start, self.rows = time.monotonic(), 0

    def __call__(self) -> float:
        return self.rows / max(time.monotonic() - self.start, 1e-9)


class LiveProgress:
    """One live line under the notes."""

    def __init__(self, bar: RichProgress) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._rate = _Rate()

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Start the line."""
        self._rate = _Rate()
        self._task = self._bar.add_task(stage, total=total, completed=done, rate="")

    def advance(self, rows: int) -> None:
        """Move the line on."""
        if self._task is not None:
            self._rate.rows += rows
            self._bar.update(self._task, advance=rows, rate=f"{self._rate():.1f}/s")

    def note(self, text: str) -> None:
        """Print a line above."""
        self._bar.console.print(text, highlight=False, markup=False)


class PlainProgress:
    """A line now and then."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage, self._total, self._done = "", 0, 0
        self._rate = _Rate()
        self._last = 0.0

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Start counting."""
        self._stage, self._total, self._done = stage, total, done
        self._rate, self._last = _Rate(), time.monotonic()

    def advance(self, rows: int) -> None:
        """Count, and print when it is time or all is done."""
        self._done += rows
        self._rate.rows += rows
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL or self._done >= self._total:
            self._last = now
            left = (self._total - self._done) / max(self._rate(), 1e-9)
            self.note(
                f"{self._stage}: {self._done:,} of {self._total:,} rows, {self._rate():.1f} rows/s, "
                f"{int(left) // 60}:{int(left) % 60:02d} left"
            )

    def note(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream, flush=True)
