"""How long work tells the outside where it is; who shows it, and how, is not the schedule's business."""

from typing import Protocol


class Progress(Protocol):
    """Receives the stages of a run."""

    def begin(self, stage: str, rows: int, tokens: int) -> None:
        """A stage of so many rows and tokens starts; time goes with tokens, people think in rows."""

    def resume(self, rows: int, tokens: int) -> None:
        """So much of the stage was already done in an earlier run."""

    def advance(self, rows: int, tokens: int) -> None:
        """So much more is done."""

    def note(self, text: str) -> None:
        """Something worth a line."""


class NoProgress:
    """Says nothing; the default in Python."""

    def begin(self, stage: str, rows: int, tokens: int) -> None:
        """Ignore."""

    def resume(self, rows: int, tokens: int) -> None:
        """Ignore."""

    def advance(self, rows: int, tokens: int) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""
