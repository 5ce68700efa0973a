"""Runs one untrusted program under limits; started by `sandbox.py` as its own process, never imported.

    python -I -S -B guard.py CPU_SECONDS MEMORY_BYTES FILE_BYTES < "token newline program"

The token is written to standard output only when the program has run to its end, so a program that merely exits
with status 0 has not passed. Two layers guard the machine: kernel limits (below), and an audit hook that refuses
processes, sockets, foreign functions, and writes outside the working directory. The hook stops accidents, also on
systems without namespaces; it is no wall against a program written to break out of Python.
"""

import os
import resource
import sys
import types

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REFUSED = (
    "os.fork",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.kill",
    "subprocess.",
    "pty.",
    "ctypes.dl",
)
CHANGING = {
    "os.remove": 1,
    "os.rename": 2,
    "os.link": 2,
    "os.symlink": 2,
    "os.rmdir": 1,
    "os.mkdir": 1,
    "os.truncate": 1,
    "os.chmod": 1,
    "os.chown": 1,
    "os.utime": 1,
}
"""Events that change the file system, and how many of their first arguments are paths."""


def limit(cpu_seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Kernel limits; the process limit binds every user but root."""
    for kind, most in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 16),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def install_hook(home: str) -> None:
    """Refuse what a solution to an exercise never needs; `home` is the only directory it may write to."""
    real, inside = os.path.realpath, os.path.join(home, "")  # noqa: PTH118  (pathlib is slow to import)

    def check_path(path: object) -> None:
        if isinstance(path, (str, bytes)):
            name = real(os.fsdecode(path))
            if name not in (home, os.devnull) and not name.startswith(inside):
                raise PermissionError(f"writing outside the working directory: {name}")

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            check_path(arguments[0])
        elif event in CHANGING:
            for path in arguments[: CHANGING[event]]:
                check_path(path)
        elif event.startswith(REFUSED) or (event.startswith("socket.") and event != "socket.__new__"):
            raise PermissionError(f"{event} is not allowed here")

    sys.addaudithook(hook)


def main() -> None:
    """Read, run, report."""
    token, program = sys.stdin.buffer.read().split(b"\n", 1)
    verdict = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    limit(*map(int, sys.argv[1:4]))
    sys.argv[1:] = []
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    code = compile(program, "<program>", "exec")
    install_hook(os.path.realpath(os.getcwd()))  # noqa: PTH109
    exec(code, module.__dict__)  # noqa: S102  (this process exists for it)
    os.write(verdict, token)


main()
