"""A small disk of its own, for tests of full and read-only ones: a tmpfs, where the system lets one be mounted."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SmallDisk:
    """A mounted tmpfs."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def resize(self, kib: int) -> None:
        """Make it so large in all."""
        self._remount(f"size={kib}k")

    def forbid_writing(self) -> None:
        """Mount it read-only from now on, also for processes that are at work there."""
        self._remount("ro")

    def allow_writing(self) -> None:
        self._remount("rw")

    def _remount(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", self.place], check=True)


@contextmanager
def small_disk(place: Path, kib: int) -> Iterator[SmallDisk | None]:
    """A disk of so many KiB at `place`; None where mounting is not allowed."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", place], capture_output=True)
    if mounted.returncode != 0:
        yield None
        return
    try:
        yield SmallDisk(place)
    finally:
        subprocess.run(["umount", "-l", place], check=True)
