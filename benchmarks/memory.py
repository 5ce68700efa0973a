"""The most memory that a block of code took, sampled from Linux's own count while it runs."""

import re
import threading
from pathlib import Path
from types import TracebackType


class PeakMemory:
    """Anonymous resident memory (no mapped files) at the start of a block and at its peak; /proc is read often."""

    def __enter__(self) -> "PeakMemory":
        """Begin."""
        self.start = self.peak = anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        """End."""
        self.peak = max(self.peak, anonymous())
        self._done.set()
        self._thread.join()

    @property
    def above_start(self) -> int:
        """Bytes that the block added at most."""
        return self.peak - self.start

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, anonymous())


def anonymous() -> int:
    """Anonymous resident memory of this process, in bytes."""
    found = re.search(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return 1024 * int(found[1])
