"""SIGTERM, SIGINT and SIGHUP end a command as Ctrl-C does: with its own exit code, and a line on how to continue."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from oracles.runs import chat_rows, write_jsonl

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
FAST = ["--candidates", "10", "--update-every", "2", "--update-batch-size", "4", "--lora-rank", "2", "--budget", "20%"]


def begin(*arguments, **variables):
    command = [sys.executable, "-m", "spice_select", *map(str, arguments)]
    return subprocess.Popen(
        command, env=ENVIRONMENT | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert path.exists(), process.communicate()


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("pool") / "p.jsonl", chat_rows(157))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_says_how_to_continue(number, code, tmp_path, tiny_model, pool):
    """`kills.py` sends SIGTERM and SIGINT too, and shows that the run then finds the same subset."""
    process = begin("run", pool, "--model", tiny_model, *FAST, "--output", tmp_path / "r")
    wait_for(tmp_path / "r" / "checkpoint" / "pool-000003.json", process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    said = error[error.index("spice-select:") :].splitlines()
    assert len(said) == 1 and "are complete" in said[0] and "`run` with --resume" in said[0], error
    assert not list((tmp_path / "r").rglob(".spice-*")), "a temporary file is left"


def test_stopped_gradients_say_that_the_same_command_continues(tmp_path, tiny_model):
    pool = write_jsonl(tmp_path / "p.jsonl", chat_rows(2000))
    place = tmp_path / "s"
    process = begin("gradients", pool, "--model", tiny_model, "--output", place, "--dim", "64", "--lora-rank", "2")
    wait_for(place / "shards" / "000000.safetensors", process)
    process.send_signal(signal.SIGHUP)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP
    assert "stopped by SIGHUP" in error and "repeat the same command" in error and "Traceback" not in error


def test_a_stopped_evaluation_keeps_what_was_measured(tmp_path, tiny_model):
    data = write_jsonl(tmp_path / "p.jsonl", chat_rows(3000))
    kept = tmp_path / "e.json"
    process = begin("evaluate", tiny_model, "--against", tiny_model, "--data", data, "--output", kept)
    wait_for(kept, process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert "`evaluate` with --overwrite" in error and "Traceback" not in error
    assert not json.loads(kept.read_text())["complete"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_process_that_waits_for_a_peer_ends(number, tmp_path, tiny_model, pool):
    """The peer never comes, and torch.distributed waits for it without running Python code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process = begin("run", pool, "--model", tiny_model, "--output", tmp_path / "r", **launch)
    deadline = time.monotonic() + 120
    while not listens(port) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # from the opened port to the wait
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == -number, error
    assert not (tmp_path / "r").exists()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_signal_that_the_shell_has_switched_off_stays_off(tmp_path, tiny_model, pool):
    """As under nohup."""

    def deaf():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = [
        sys.executable,
        "-m",
        "spice_select",
        "run",
        pool,
        "--model",
        tiny_model,
        *FAST,
        "--output",
        tmp_path / "r",
    ]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=deaf)
    assert "reading the pool" in process.stderr.readline()
    process.send_signal(signal.SIGHUP)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
