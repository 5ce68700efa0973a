"""Progress of a run: a live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from spice_select.cli.printable import printable
from spice_select.distributed.launch import is_main_process
from spice_select.progress import NoProgress, Progress

PLAIN_INTERVAL = 15.0
"""Seconds between two plain progress lines."""


@contextmanager
def progress_on(stream: TextIO) -> Generator[Progress]:
    """A progress display fit for `stream`; processes of a launch other than the first stay silent."""
    if not is_main_process():
        yield NoProgress()
        return
    if not stream.isatty():
        yield PlainProgress(stream)
        return
    console = Console(file=stream)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with RichProgress(*columns, console=console, transient=True) as bar:
        yield LiveProgress(bar)


class _Meter:
    """Rows a second and the seconds left, from this process's own work; time goes with tokens."""

    def __init__(self, rows: int, tokens: int) -> None:
        self.rows, self.tokens = rows, tokens
        self.done_rows = self.done_tokens = 0
        self._own_rows = self._own_tokens = 0
        self._start = time.monotonic()

    def resume(self, rows: int, tokens: int) -> None:
        self.done_rows, self.done_tokens = rows, tokens

    def advance(self, rows: int, tokens: int) -> None:
        self.done_rows += rows
        self.done_tokens += tokens
        self._own_rows += rows
        self._own_tokens += tokens

    def __str__(self) -> str:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        done = f"{self.done_rows:,} of {self.rows:,} rows"
        if not self._own_tokens:
            return done
        left = timedelta(seconds=int((self.tokens - self.done_tokens) * elapsed / self._own_tokens))
        return f"{done}, {self._own_rows / elapsed:.1f} rows/s, {left} left"


class LiveProgress:
    """One live line under the notes."""

    def __init__(self, bar: RichProgress) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._meter = _Meter(0, 0)

    def begin(self, stage: str, rows: int, tokens: int) -> None:
        """Start the line."""
        self._meter = _Meter(rows, tokens)
        self._task = self._bar.add_task(stage, total=tokens, text=str(self._meter))

    def resume(self, rows: int, tokens: int) -> None:
        """Start further on."""
        self._meter.resume(rows, tokens)
        self._show()

    def advance(self, rows: int, tokens: int) -> None:
        """Move the line on."""
        self._meter.advance(rows, tokens)
        self._show()

    def note(self, text: str) -> None:
        """Print a line above."""
        self._bar.console.print(printable(text), highlight=False, markup=False)

    def _show(self) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=self._meter.done_tokens, text=str(self._meter))


class PlainProgress:
    """A line now and then."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._meter = _Meter(0, 0)
        self._last = 0.0

    def begin(self, stage: str, rows: int, tokens: int) -> None:
        """Start counting."""
        self._stage, self._meter, self._last = stage, _Meter(rows, tokens), time.monotonic()

    def resume(self, rows: int, tokens: int) -> None:
        """Start further on."""
        self._meter.resume(rows, tokens)

    def advance(self, rows: int, tokens: int) -> None:
        """Count, and print when it is time or all is done."""
        self._meter.advance(rows, tokens)
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL or self._meter.done_rows >= self._meter.rows:
            self._last = now
            self.note(f"{self._stage}: {self._meter}")

    def note(self, text: str) -> None:
        """Print a line."""
        print(printable(text), file=self._stream, flush=True)
