"""Progress of a run on standard error: a live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
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
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with RichProgress(*columns, console=Console(file=stream), transient=True) as bar:
        yield LiveProgress(bar)


class PlainProgress:
    """A line now and then, with the speed of this process and the time left; time grows with tokens."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self._stream = stream

    def begin(self, stage: str, rows: int, tokens: int) -> None:
        """Start counting."""
        self._stage, self._rows, self._tokens = stage, rows, tokens
        self._resumed_rows = self._resumed_tokens = self._own_rows = self._own_tokens = 0
        self._start = self._last = time.monotonic()

    def resume(self, rows: int, tokens: int) -> None:
        """Count what an earlier run did."""
        self._resumed_rows, self._resumed_tokens = rows, tokens

    def advance(self, rows: int, tokens: int) -> None:
        """Count, and print when it is time or all is done."""
        self._own_rows, self._own_tokens = self._own_rows + rows, self._own_tokens + tokens
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL or self._resumed_rows + self._own_rows >= self._rows:
            self._last = now
            self.note(f"{self._stage}: {self._status()}")

    def note(self, text: str) -> None:
        """Print a line."""
        print(printable(text), file=self._stream, flush=True)

    def _status(self) -> str:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        done = f"{self._resumed_rows + self._own_rows:,} of {self._rows:,} rows"
        if not self._own_tokens:
            return done
        missing = self._tokens - self._resumed_tokens - self._own_tokens
        left = timedelta(seconds=int(missing * elapsed / self._own_tokens))
        return f"{done}, {self._own_rows / elapsed:.1f} rows/s, {left} left"


class LiveProgress(PlainProgress):
    """One live line under the notes."""

    def __init__(self, bar: RichProgress) -> None:
        """Show the line as a task of `bar`."""
        self._bar = bar

    def begin(self, stage: str, rows: int, tokens: int) -> None:
        """Start the line."""
        super().begin(stage, rows, tokens)
        self._task = self._bar.add_task(stage, total=tokens, text=self._status())

    def resume(self, rows: int, tokens: int) -> None:
        """Move the line to where an earlier run stopped."""
        super().resume(rows, tokens)
        self.advance(0, 0)

    def advance(self, rows: int, tokens: int) -> None:
        """Move the line."""
        self._own_rows, self._own_tokens = self._own_rows + rows, self._own_tokens + tokens
        self._bar.update(self._task, completed=self._resumed_tokens + self._own_tokens, text=self._status())

    def note(self, text: str) -> None:
        """Print a line above."""
        self._bar.console.print(printable(text), highlight=False, markup=False)
