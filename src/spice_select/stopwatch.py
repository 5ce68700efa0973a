"""The time of a run, by stage."""

import time
from collections.abc import Generator
from contextlib import contextmanager


class Stopwatch:
    """Adds up seconds by stage; `seconds` holds the stages in the order in which they first ran."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str) -> Generator[None]:
        """Add the time of the block to `stage`, also when the block fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
