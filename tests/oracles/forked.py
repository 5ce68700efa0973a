"""The command line in processes of their own that need not import torch and transformers anew.

A server imports once what every command imports (about eight seconds) and forks for each command: arguments, directory,
variables, standard output, exit code are a new process's. Its own are not: what libraries print and read when they are
imported, and the order of a set of strings. Tests that look at these, at signals or kills take `spice_anew`.
"""

import atexit
import importlib
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any
from unittest import mock

import datasets.config
import numpy as np
from huggingface_hub import constants, hf_api
from torch.distributed import TCPStore

from spice_select.cli import main

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
IMPORTED = (
    "spice_select.cli.run",
    "spice_select.cli.study",
    "spice_select.schedule.candidate_pools",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "peft",
    "datasets",
)
LIMIT = 600.0
"""Seconds that a command may take, on a machine that is busy with others."""
GRACE = 20.0
"""Seconds that the others of a launch may go on when one has failed."""

Done = subprocess.CompletedProcess[str]
SERVER = multiprocessing.get_context("forkserver")


def spice(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] = ENVIRONMENT) -> Done:
    """`spice-select` with these arguments."""
    if sys.platform == "darwin":  # its frameworks must not be used after a fork
        return spice_anew(*arguments, cwd=cwd, env=env)
    return _together([env], arguments, cwd)


def spice_anew(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] = ENVIRONMENT) -> Done:
    """`spice-select` with these arguments, started as users start it."""
    command = [sys.executable, "-m", "spice_select", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=LIMIT)


def torchrun(processes: int, *arguments: object) -> list[str]:
    """The words that launch a program or module in several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    return [sys.executable, *map(str, [*launcher, *arguments])]


def spice_together(processes: int, *arguments: object) -> Done:
    """The command as this many processes that find one another at a store, as torchrun's do; what all have said."""
    if sys.platform == "darwin":
        command = torchrun(processes, "-m", "spice_select", *arguments)
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        **ENVIRONMENT,
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    return _together([{**shared, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(processes)], arguments, None)


def _together(environments: list[Mapping[str, str]], arguments: tuple[object, ...], cwd: Path | None) -> Done:
    words = ["spice-select", *map(str, arguments)]
    _start_server()
    with tempfile.TemporaryDirectory(prefix="spice-forked-") as folder:
        streams = [(Path(folder) / f"out-{i}", Path(folder) / f"err-{i}") for i in range(len(environments))]
        for path in (path for pair in streams for path in pair):
            path.touch()
        processes: list[Any] = []
        try:
            for env, pair in zip(environments, streams, strict=True):
                processes.append(SERVER.Process(target=_run, args=(words, cwd or Path.cwd(), dict(env), pair)))
                processes[-1].start()
            late = _wait(processes)
        finally:
            for process in (one for one in processes if one.exitcode is None):
                process.kill()
                process.join()
        printed, told = (
            "".join(pair[i].read_text(encoding="utf-8", errors="replace") for pair in streams) for i in (0, 1)
        )
    if late:
        raise subprocess.TimeoutExpired(words, LIMIT, printed, told)
    code = next((one.exitcode for one in processes if one.exitcode != 0), 0)
    return subprocess.CompletedProcess(words, code, printed, told)


def _start_server() -> None:
    """With the commands' variables, whatever a test has set by now: libraries read theirs when they are imported."""
    assert all(importlib.util.find_spec(name) for name in IMPORTED)
    SERVER.set_forkserver_preload(list(IMPORTED))
    with mock.patch.dict(os.environ, {**ENVIRONMENT, "HF_HUB_DISABLE_TELEMETRY": "1"}, clear=True):
        forkserver.ensure_running()


def _wait(processes: list[Any]) -> bool:
    """Until all have ended, or one has failed and the others had their time; say whether that took too long."""
    deadline = time.monotonic() + LIMIT
    failed = False
    while running := [one for one in processes if one.exitcode is None]:
        if not failed and any(one.exitcode for one in processes):
            failed, deadline = True, min(deadline, time.monotonic() + GRACE)
        left = deadline - time.monotonic()
        if left <= 0:
            return not failed
        connection.wait([one.sentinel for one in running], left)
    return False


def _run(words: list[str], cwd: Path, env: dict[str, str], streams: tuple[Path, Path]) -> None:
    for descriptor, path in enumerate(streams, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    # What a Python of its own finds anew at its start, and does at its end.
    tempfile.tempdir = None
    np.random.seed()
    atexit._clear()
    finalizers: Any = weakref.finalize
    finalizers._registry.clear()
    finalizers._registered_with_atexit = False
    if "HF_ENDPOINT" in env:
        _read_hub_variables()
    os.chdir(cwd)
    sys.argv = words
    try:
        main()
    finally:
        atexit._run_exitfuncs()


def _read_hub_variables() -> None:
    """The hub's libraries read their variables when they are imported: read them again in the forked process."""
    importlib.reload(constants)
    importlib.reload(datasets.config)
    hf_api.api.endpoint = constants.ENDPOINT
