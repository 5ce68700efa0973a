"""Does a program run to its end? Asked of generated code, in a process of its own, never in this one.

Each program gets: an isolated interpreter (`-I -S`: no site-packages, so only the standard library) in a new session;
an environment without the user's variables; an empty temporary working directory, removed afterwards; limits on CPU
time, memory, file size, files and processes; a wall clock after which the whole process group is killed; and, where
Linux user namespaces are to be had, no network and a process namespace that dies with it. `guard.py` adds what
works without namespaces. Reading files is not restricted. Treat code of a model that nobody has vetted as hostile, and
run this inside a container or virtual machine.
"""

import contextlib
import functools
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from spice_select.errors import ConfigError

GUARD = Path(__file__).with_name("guard.py")
NAMESPACES = ("--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child")
FILE_BYTES = 1 << 20


@functools.cache
def isolation() -> tuple[str, ...]:
    """The command prefix that takes the network away, empty where this system has none for unprivileged users."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    prefix = (unshare, *NAMESPACES)
    try:
        trial = subprocess.run([*prefix, sys.executable, "-I", "-S", "-c", ""], capture_output=True, timeout=30)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return prefix if trial.returncode == 0 else ()


def check_supported() -> None:
    """Refuse systems without POSIX limits.

    Raises:
        ConfigError: on such a system.

    """
    if os.name != "posix":
        raise ConfigError(
            "humaneval and mbpp execute code under POSIX limits, which this system lacks; use Linux, macOS or WSL."
        )


def passes(program: str, *, seconds: float = 5.0, memory_bytes: int = 1 << 30) -> bool:
    """Whether Python source runs to its end: no exception, exit, signal or limit stops it.

    Args:
        program: source text.
        seconds: CPU time, rounded up to whole seconds; the wall clock has three times as much.
        memory_bytes: address space of the process.

    """
    limits = [str(math.ceil(seconds)), str(memory_bytes), str(FILE_BYTES)]
    token = secrets.token_hex(16).encode()
    with tempfile.TemporaryDirectory(prefix="spice-select-", ignore_cleanup_errors=True) as folder:
        home, verdict = Path(folder, "home"), Path(folder, "verdict")
        home.mkdir()
        with tempfile.TemporaryFile() as source, verdict.open("wb") as output:
            source.write(token + b"\n" + program.encode("utf-8", errors="replace"))
            source.seek(0)
            process = subprocess.Popen(  # noqa: S603
                [*isolation(), sys.executable, "-I", "-S", "-B", str(GUARD), *limits],
                stdin=source,
                stdout=output,
                stderr=subprocess.DEVNULL,
                cwd=home,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(home), "TMPDIR": str(home)},
                start_new_session=True,
            )
            _wait(process, 3 * seconds)
        return process.returncode == 0 and verdict.read_bytes() == token


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for the program, then kill whatever its process group still holds."""
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
