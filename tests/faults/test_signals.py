"""SIGTERM, SIGINT and SIGHUP end a command soon, with its own exit code, with what is kept and how to go on."""

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
FAST = ["--pool-size", "10", "--update-every", "2", "--update-batch-size", "4", "--lora-rank", "2", "--budget", "20%"]


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


def test_a_stopped_run_says_what_is_kept_and_how_to_go_on(tmp_path, tiny_model, pool):
    """That it goes on to the same subset is held by `kills.py`, where SIGTERM and SIGINT are sent, too."""
    process = begin("run", pool, "--model", tiny_model, *FAST, "--output", tmp_path / "r")
    wait_for(tmp_path / "r" / "checkpoint" / "pool-000003.json", process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    said = error[error.index("spice-select:") :].splitlines()
    assert len(said) == 2 and "candidate pools are kept in" in said[0] and "--resume" in said[1], error
    assert not list((tmp_path / "r").rglob(".spice-*")), "nothing is left lying about"


def test_stopped_gradients_say_that_the_same_command_goes_on(tmp_path, tiny_model):
    pool = write_jsonl(tmp_path / "p.jsonl", chat_rows(2000))
    place = tmp_path / "s"
    process = begin("gradients", pool, "--model", tiny_model, "--output", place, "--dim", "64", "--lora-rank", "2")
    wait_for(place / "shards" / "000000.safetensors", process)
    process.send_signal(signal.SIGHUP)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP
    assert "shard" in error and "The same command computes what is missing." in error and "Traceback" not in error


def test_a_stopped_evaluation_keeps_what_was_measured(tmp_path, tiny_model):
    data = write_jsonl(tmp_path / "p.jsonl", chat_rows(3000))
    kept = tmp_path / "e.json"
    process = begin("evaluate", tiny_model, "--against", tiny_model, "--data", data, "--output", kept)
    wait_for(kept, process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert "the same command again" in error and "Traceback" not in error
    assert not json.loads(kept.read_text())["complete"]


@pytest.mark.parametrize("twice", [False, True])
def test_a_process_that_waits_for_another_ends_too(twice, tmp_path, tiny_model, pool):
    """It sits in code that never looks at signals: a second thread ends the process, a second signal at once."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    alone_of_two = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    arguments = ["run", pool, "--model", tiny_model, *FAST, "--output", tmp_path / "r"]
    process = begin(*arguments, **alone_of_two, **address)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:  # until it listens for the other
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", int(port))) == 0:
                break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    if twice:
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=5)  # sooner than the 8 s that the first one waits
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in error and "ended at once" in error, error


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
