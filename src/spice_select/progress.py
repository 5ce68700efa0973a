"""How long-running work reports its progress; the receiver decides how to show it."""

from typing import Any, Protocol, TextIO


class Progress(Protocol):
    """Receives the stages of a run."""

    def begin(self, stage: str, rows: int, tokens: int) -> None:
        """A stage of so many rows and tokens starts. Time grows with tokens; people count rows."""

    def resume(self, rows: int, tokens: int) -> None:
        """Report what an earlier run did of the stage."""

    def advance(self, rows: int, tokens: int) -> None:
        """Report progress within the stage."""

    def note(self, text: str) -> None:
        """Report one line of text."""


class NoProgress:
    """Reports nothing; the default in Python."""

    def begin(self, stage: str, rows: int, tokens: int) -> None:
        """Ignore."""

    def resume(self, rows: int, tokens: int) -> None:
        """Ignore."""

    def advance(self, rows: int, tokens: int) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


class ProgressBar:
    """A bar for each stage, by tqdm: in a notebook a widget where ipywidgets is installed, elsewhere a line of text."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to `stream`, or to the notebook or standard error."""
        from tqdm.auto import tqdm  # here, since every command imports this module

        self._tqdm: Any = tqdm
        self._stream = stream
        self._bar: Any = None

    def begin(self, stage: str, rows: int, tokens: int) -> None:
        """Start a bar; that of the stage before ends as it stands."""
        if self._bar is not None:
            self._bar.close()
        self._rows, self._done = rows, 0
        self._bar = self._tqdm(total=tokens, desc=stage, unit=" tokens", unit_scale=True, file=self._stream)

    def resume(self, rows: int, tokens: int) -> None:
        """Move the bar to where an earlier run stopped."""
        self._bar.initial = tokens  # not counted in the speed
        self.advance(rows, tokens)

    def advance(self, rows: int, tokens: int) -> None:
        """Move the bar; when all rows are done it ends."""
        self._done += rows
        self._bar.set_postfix_str(f"{self._done:,} of {self._rows:,} rows", refresh=self._done >= self._rows)
        self._bar.update(tokens)
        if self._done >= self._rows:
            self._bar.close()

    def note(self, text: str) -> None:
        """Print a line, without characters that a terminal would obey."""
        self._tqdm.write("".join(letter for letter in text if letter.isprintable()), file=self._stream)
