"""How much memory this process has needed, and how much it could have."""

import resource
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_AVAILABLE = Path("/proc/meminfo")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container reads its own limit, by either version of Linux' control groups."""


class PeakMemory:
    """The most memory held since it was made: on a GPU by tensors, otherwise by the whole process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif _CLEAR.exists():
            with suppress(OSError):  # where it is read-only, the peak is that since the process began
                _CLEAR.write_text("5")  # Linux: start the process's high-water mark anew

    def bytes(self) -> int:
        """The peak so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if _STATUS.exists():
            return _kibibytes(_STATUS, "VmHWM:") * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def obtainable_bytes(device: torch.device) -> int | None:
    """Memory that this process holds or could still get; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if not (_AVAILABLE.exists() and _STATUS.exists()):
        return None
    free = (_kibibytes(_AVAILABLE, "MemAvailable:") + _kibibytes(_STATUS, "VmRSS:")) * 1024
    return min([free, *_container_limits(_LIMITS)])


def _container_limits(files: Iterable[Path]) -> list[int]:
    """Bytes by each of `files` that is there and names a number."""
    texts = [path.read_text().strip() for path in files if path.exists()]
    return [int(text) for text in texts if text.isdigit()]


def _kibibytes(path: Path, field: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])
