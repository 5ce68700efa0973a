"""How long work tells the outside where it is; who shows it, and how, is not the schedule's business."""

from typing import Protocol


class Progress(Protocol):
    """Receives the stages of a run."""

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """A stage of `total` rows starts, `done` of them already finished in an earlier run."""

    def advance(self, rows: int) -> None:
        """So many more rows are done."""

    def note(self, text: str) -> None:
        """Something worth a line."""


class NoProgress:
    """Says nothing; the default in Python."""

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Ignore."""

    def advance(self, rows: int) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""
