"""Long runs, few file descriptors, a hub that does not answer."""

import os
import re
import resource
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from oracles.runs import chat_rows, write_jsonl
from spice_select import compute_gradients, select
from spice_select.errors import ModelError
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.progress import NoProgress
from spice_select.schedule.proxy_training import TRAINING_REMEDY

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def anonymous_memory():
    return int(re.search(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


class Samples(NoProgress):
    """Memory, in kB, whenever another pool is done."""

    def __init__(self, checkpoint):
        self.checkpoint, self.kib = checkpoint, []

    def advance(self, rows, tokens):
        if len(list(self.checkpoint.glob("pool-*.json"))) > len(self.kib):
            self.kib.append(anonymous_memory())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts memory there")
def test_memory_stays_level_over_a_hundred_pools(tmp_path, tiny_model):
    samples = Samples(tmp_path / "r" / "checkpoint")
    select(chat_rows(600), model=tiny_model, output=tmp_path / "r", progress=samples, candidates=5, budget="20%",
           lora_rank=2, update_every=4, update_batch_size=2)  # fmt: skip
    assert len(samples.kib) >= 110
    first, last = max(samples.kib[:20]), max(samples.kib[-20:])
    assert last < 1.02 * first, samples.kib


def test_a_store_of_many_shards_needs_few_open_files(tmp_path, tiny_model):
    pool = write_jsonl(tmp_path / "p.jsonl", chat_rows(20_000 // 256 * 256 // 4))
    store = compute_gradients(pool, model=tiny_model, output=tmp_path / "s", dim=16, lora_rank=2, warmup_steps=1)
    shards = len(list((store.path / "shards").iterdir()))
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))  # noqa: E731
    command = ["pick", store.path, "--budget", "20", "--output", tmp_path / "c"]
    done = subprocess.run([sys.executable, "-m", "spice_select", *map(str, command)], env=ENVIRONMENT,
                          capture_output=True, text=True, preexec_fn=few, timeout=300)  # fmt: skip
    assert shards >= 19 and done.returncode == 0, done.stderr


def test_memory_that_cannot_be_had_is_told_with_what_helps():
    """Each allocator has its own way of saying so."""
    for attempt in (lambda: torch.empty(1 << 45), lambda: np.empty(1 << 45)):
        with (
            pytest.raises(ModelError, match=r"out of memory.*\n.*--gradient-memory"),
            explain_out_of_memory(TRAINING_REMEDY),
        ):
            attempt()


def test_a_hub_that_never_answers_ends_in_an_error(tmp_path):
    """The time it may take is the hub library's own, set by its variables."""
    with socket.create_server(("127.0.0.1", 0), backlog=99) as server:  # the system connects, nobody reads
        silent = {"HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}", "HF_HUB_ETAG_TIMEOUT": "1",
                  "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}  # fmt: skip
        pool = write_jsonl(tmp_path / "p.jsonl", chat_rows(5))
        command = [
            sys.executable,
            "-m",
            "spice_select",
            "run",
            pool,
            "--model",
            "some/model",
            "--output",
            tmp_path / "r",
        ]
        done = subprocess.run(command, env=ENVIRONMENT | silent, capture_output=True, text=True, timeout=300)
    error = done.stderr[done.stderr.index("spice-select:") :]
    assert done.returncode == 2 and "some/model" in error and len(error.splitlines()) <= 3, done.stderr
    assert not (tmp_path / "r").exists()
