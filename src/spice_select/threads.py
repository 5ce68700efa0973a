"""Threads of torch on a shared machine: no more than the container's CPU quota allows, and asleep while they wait.

By default OpenMP's threads spin while they wait for one another, and spend the CPU time that the others need as soon as
another process takes a core. OpenMP keeps to the affinity mask by itself, but knows of no quota. It reads its variables
when torch is first imported, so this must run before.
"""

import math
import os
import sys
from pathlib import Path, PurePosixPath


def configure_threads() -> None:
    """Set OpenMP's variables, except those that the user has set."""
    if "torch" in sys.modules:
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quota = cpu_quota()
    if quota is not None and math.ceil(quota) < usable_cpus():
        os.environ.setdefault("OMP_NUM_THREADS", str(math.ceil(quota)))


def usable_cpus() -> int:
    """CPUs of this process's affinity mask, or all where the system has no masks."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The CPUs' worth of time that Linux grants this process's control group; None without a limit.

    `root` holds /proc and /sys. The smallest quota of the group and of those above it counts.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if not controllers or "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
            path = PurePosixPath(group)  # of the host, in some containers: there only the mount itself exists
            quotas += [q for folder in (path, *path.parents) if (q := _quota(mount / folder.relative_to("/")))]
    return min(quotas, default=None)


def _quota(folder: Path) -> float | None:
    """The quota in a control group's files, of version 2 (cpu.max) or 1."""
    try:
        whole = folder / "cpu.max"
        parts = [whole] if whole.exists() else [folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"]
        quota, period = " ".join(part.read_text(encoding="ascii") for part in parts).split()
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError):
        return None
