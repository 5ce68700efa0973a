"""The command line in a process of its own that need not import torch and transformers anew.

A server imports once what every command imports (about eight seconds) and forks for each command: arguments, directory,
variables, standard output, exit code are a new process's. Tests of signals, kills and several processes start Python.
"""

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
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
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(list(IMPORTED))


def spice(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] = ENVIRONMENT,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """`spice-select` with these arguments; variables that libraries read when imported must be as in `ENVIRONMENT`."""
    words = ["spice-select", *map(str, arguments)]
    with tempfile.TemporaryDirectory(prefix="spice-forked-") as folder:
        streams = [Path(folder) / name for name in ("stdout", "stderr")]
        process = SERVER.Process(target=_run, args=(words, cwd or Path.cwd(), dict(env), streams))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        printed, told = (path.read_text(encoding="utf-8", errors="replace") for path in streams)
    return subprocess.CompletedProcess(words, process.exitcode, printed, told)


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
