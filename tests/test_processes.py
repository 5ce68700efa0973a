"""Several processes of one launch: the subset of a single one, and what happens when one is lost."""

import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from oracles import shared_picks
from oracles.forked import spice_together, torchrun
from oracles.runs import chat_rows, read_jsonl, write_jsonl
from spice_select import compute_gradients, pick, select
from spice_select.files.locks import CLAIMS

TESTS = Path(__file__).parent
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
FAST = {"lora_rank": 2, "warmup_steps": 1}
OPTIONS = ["--lora-rank", "2", "--warmup-steps", "1"]


def launched(processes, *arguments):
    done = subprocess.run(torchrun(processes, *arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def run(processes, *arguments):
    done = spice_together(processes, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    rows = [{**row, "source": f"s{i % 3}"} for i, row in enumerate(chat_rows(300))]
    return write_jsonl(tmp_path_factory.mktemp("pool") / "mixed.jsonl", rows)


def content(store: Path) -> dict[str, bytes]:
    files = (path for path in store.rglob("*") if path.is_file() and CLAIMS not in path.parts)
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [3])
def test_choosing_together_is_choosing_alone(processes):
    """120 problems: targets, limits, given rows, principal directions, ties, early stops, fewer rows than processes."""
    done = launched(processes, shared_picks.__file__)
    assert f"{processes} processes agree" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_gradients_and_picks_of_several_processes(processes, pool, tiny_model, tmp_path):
    """The store is the same bytes and the directory holds the same rows; one process alone prints and writes."""
    start = partial(launched, 2, "-m", "spice_select") if processes == 2 else partial(run, processes)
    compute_gradients(pool, model=tiny_model, output=tmp_path / "one", dim=64, **FAST)
    done = start("gradients", pool, "--model", tiny_model, "--output",
               tmp_path / "many", "--dim", "64", *OPTIONS)  # fmt: skip
    assert done.stdout.count("300 gradients of 64 dimensions") == 1
    assert content(tmp_path / "many") == content(tmp_path / "one")
    done = run(processes, "pick", tmp_path / "many", "--budget", "40", "--directions", "all",
               "--quota", "s0=..10", "--output", tmp_path / "chosen")  # fmt: skip
    assert done.stdout.count("rows kept") == 1
    expected = pick(tmp_path / "one", budget="40", directions="all", quota={"s0": "..10"})
    assert read_jsonl(tmp_path / "chosen" / "selected.jsonl") == expected.rows


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2])
def test_a_run_shares_its_pools_and_its_steps(processes, pool, tiny_model, tmp_path):
    """Nine pools, an update of the proxy after every two of them."""
    schedule = {"candidates": 36, "update_every": 2, "learning_rate": 1e-2, "lr_warmup_steps": 0}
    expected = select(pool, model=tiny_model, **schedule, **FAST)
    done = run(processes, "run", pool, "--model", tiny_model, "--candidates", "36",
               "--update-every", "2", "--learning-rate", "0.01", "--lr-warmup-steps", "0", *OPTIONS,
               "--output", tmp_path / "run")  # fmt: skip
    assert done.stdout.count("rows kept") == 1 and done.stderr.count("update 1:") == 1
    assert read_jsonl(tmp_path / "run" / "selected.jsonl") == expected.rows


@pytest.mark.slow
def test_a_run_over_all_rows_by_two_processes(pool, tiny_model, tmp_path):
    expected = select(pool, model=tiny_model, candidates="all", dim=64, **FAST)
    run(2, "run", pool, "--model", tiny_model, "--candidates", "all", "--dim", "64", *OPTIONS,
        "--output", tmp_path / "run")  # fmt: skip
    assert read_jsonl(tmp_path / "run" / "selected.jsonl") == expected.rows


@pytest.mark.slow
def test_a_lost_process_ends_the_run_and_resuming_goes_on(pool, tiny_model, tmp_path):
    """The launcher ends the others; --resume with another number of processes gives the undisturbed subset."""
    schedule = ["--candidates", "12", "--update-every", "4", "--batch-tokens", "128", *OPTIONS]
    command = ["-m", "spice_select", "run", pool, "--model", tiny_model, *schedule, "--output", tmp_path / "run"]
    process = subprocess.Popen(torchrun(2, *command), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    checkpoint = tmp_path / "run" / "checkpoint"
    deadline = time.monotonic() + 120
    while len(list(checkpoint.glob("pool-*.json"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children()
    workers[-1].send_signal(signal.SIGKILL)
    _, told = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "spice_select/" not in told  # no traceback into the program, the launcher's own report apart
    done = run(3, *command[2:], "--resume")
    assert "rows kept" in done.stdout
    expected = select(pool, model=tiny_model, candidates=12, update_every=4, **FAST)
    assert read_jsonl(tmp_path / "run" / "selected.jsonl") == expected.rows


@pytest.mark.slow
def test_a_mistake_is_told_without_a_traceback(tmp_path, tiny_model):
    command = ["-m", "spice_select", "run", "absent.jsonl", "--model", tiny_model, "--output", tmp_path / "o"]
    done = subprocess.run(torchrun(2, *command), env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    own = [line for line in done.stderr.splitlines() if line.startswith("spice-select (process")]
    assert done.returncode != 0 and own and "absent.jsonl" in own[0]
    assert not (tmp_path / "o").exists()
