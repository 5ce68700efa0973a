"""How long-running work reports its progress; the receiver decides how to show it."""

from typing import Protocol


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
