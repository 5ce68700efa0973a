"""The command line in processes of their own that need not import torch and transformers anew.

A server imports once what every command imports (about eight seconds) and forks for each command: arguments, directory,
variables, standard output, exit code are a new process's. Tests of signals, kills and of torchrun itself start Python.
"""

import atexit
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from spice_select.cli import main

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
IMPORTED = (
    "spice_select.cli.run",
    "spice_select.cli.study",
    "spice_select.schedule.interleave",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "peft",
    "datasets",
)
Done = subprocess.CompletedProcess[str]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(list(IMPORTED))


def spice(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] = ENVIRONMENT,
    timeout: float = 300,
) -> Done:
    """`spice-select` with these arguments; variables that libraries read when imported must be as in `ENVIRONMENT`."""
    return _started(["spice-select", *map(str, arguments)], cwd or Path.cwd(), env)(timeout)


def spice_together(processes: int, *arguments: object) -> Done:
    """The command as this many processes of one launch, with the variables that torchrun gives; what all have said."""
    words = ["spice-select", *map(str, arguments)]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    size = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ends = [
        _started(words, Path.cwd(), {**ENVIRONMENT, **size, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    done = [end(300) for end in ends]
    code = next((one.returncode for one in done if one.returncode != 0), 0)
    printed, told = ("".join(texts) for texts in zip(*((one.stdout, one.stderr) for one in done), strict=True))
    return subprocess.CompletedProcess(words, code, printed, told)


def _started(
    words: list[str], cwd: Path, env: Mapping[str, str]
) -> Callable[[float], subprocess.CompletedProcess[str]]:
    """Start a command; the function that waits for its end."""
    folder = tempfile.TemporaryDirectory(prefix="spice-forked-")
    streams = [Path(folder.name) / name for name in ("stdout", "stderr")]
    process = SERVER.Process(target=_run, args=(words, cwd, dict(env), streams))
    process.start()

    def end(timeout: float) -> Done:
        with folder:
            process.join(timeout)
            if process.exitcode is None:
                process.kill()
                process.join()
                raise subprocess.TimeoutExpired(words, timeout)
            printed, told = (path.read_text(encoding="utf-8", errors="replace") for path in streams)
        return subprocess.CompletedProcess(words, process.exitcode, printed, told)

    return end


def _run(words: list[str], cwd: Path, env: dict[str, str], streams: list[Path]) -> None:
    for descriptor, path in enumerate(streams, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # found again, in the command's own variables
    os.chdir(cwd)
    sys.argv = words
    try:
        main()
    finally:
        # A forked process ends without what a Python of its own does at its end.
        atexit._run_exitfuncs()
