"""Where the time of a run goes."""

import time
from collections.abc import Generator
from contextlib import contextmanager


class Stopwatch:
    """Adds up seconds by stage; `seconds` holds the stages in the order in which they first ran."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str) -> Generator[None]:
        """Within the context time goes to `stage`; what fails counts too."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
