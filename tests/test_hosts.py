"""Several hosts, each played by a launcher of its own on this machine: the scripts of examples/hosts, a directory that
is not shared, files at addresses, a process that is lost and starts again."""

import functools
import os
import socket
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from oracles.forked import spice_together, torchrun
from oracles.runs import chat_rows, read_jsonl, write_jsonl
from spice_select import select

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "examples" / "hosts"
TESTS = Path(__file__).parent
OPTIONS = ["--lora-rank", "2", "--warmup-steps", "1", "--candidates", "20"]
FAST = {"lora_rank": 2, "warmup_steps": 1, "candidates": 20}
PATHS = os.pathsep.join([str(ROOT / "src"), str(TESTS)])
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS,
               "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("pool") / "p.jsonl", chat_rows(80))


@pytest.fixture(scope="module")
def expected(pool, tiny_model):
    return select(pool, model=tiny_model, **FAST).rows


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def on_hosts(script, *arguments, cwd=ROOT, **variables):
    """The script once for each of two hosts, one process each; what both have said."""
    own = {**ENVIRONMENT, "NODES": "2", "PROCESSES": "1", "HEAD": "127.0.0.1", "PORT": str(free_port()), **variables}
    command = ["bash", str(SCRIPTS / script), *map(str, arguments)]
    hosts = [
        subprocess.Popen(command, cwd=cwd, env={**own, "MACHINE": str(machine)}, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
        for machine in range(2)
    ]  # fmt: skip
    said = [host.communicate(timeout=300) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    return "".join(out for out, _ in said)


@pytest.mark.parametrize("script", ["each_host.sh", "accelerate.sh"])
def test_a_run_by_the_scripts_is_the_run_of_one_process(script, pool, expected, tiny_model, tmp_path):
    run = ["run", pool, "--model", tiny_model, *OPTIONS, "--output", tmp_path / "run"]
    assert on_hosts(script, *run).count("rows kept") == 1
    assert read_jsonl(tmp_path / "run" / "selected.jsonl") == expected


def test_the_slurm_script_starts_the_tested_one_on_every_host(tmp_path):
    """Not a test of SLURM: srun and scontrol are stand-ins that show what they are asked for."""
    for name, line in (("srun", 'echo "$NODES $PROCESSES $HEAD $JOB $@"'), ("scontrol", "echo node1; echo node2")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    given = {
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }
    own = {**ENVIRONMENT, **given, "PATH": f"{tmp_path}{os.pathsep}{ENVIRONMENT['PATH']}"}
    command = ["bash", SCRIPTS / "slurm.sh", "run", "a b.jsonl"]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=True)
    assert done.stdout == "2 8 node1 17 bash examples/hosts/each_host.sh run a b.jsonl\n"


@pytest.mark.parametrize("command", ["run", "gradients"])
def test_a_directory_that_is_not_shared_is_named(command, pool, tiny_model, tmp_path):
    """Each process in a folder of its own, as on hosts without a common disk: nothing is left behind."""
    script = tmp_path / "apart.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "from spice_select.cli import main\n"
        "from spice_select.distributed import shared_directory\n"
        "shared_directory.PATIENCE = 0.5\n"
        "own = pathlib.Path(__file__).parent / os.environ['RANK']\n"
        "own.mkdir()\n"
        "os.chdir(own)\n"
        "main()\n"
    )
    words = [command, pool, "--model", tiny_model, "--output", "out"]
    done = subprocess.run(torchrun(2, script, *words), env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    told = [line for line in done.stderr.splitlines() if line.startswith("spice-select (process")]
    assert done.returncode != 0 and told, done.stderr
    assert f"out: {socket.gethostname()} does not see what {socket.gethostname()} writes there" in told[0]
    assert not list(tmp_path.glob("*/out"))


class Counting(SimpleHTTPRequestHandler):
    """Serves a folder, and counts whole reads of each file."""

    reads: dict[str, int]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.reads[self.path] = self.reads.get(self.path, 0) + 1
        super().do_GET()


@pytest.fixture
def web(tmp_path):
    """Two files of one name, and where they are served."""
    for seed, folder in enumerate("ab"):
        (tmp_path / "web" / folder).mkdir(parents=True)
        write_jsonl(tmp_path / "web" / folder / "p.jsonl", chat_rows(30, seed))
    handler = type("Bound", (Counting,), {"reads": {}})
    serving = functools.partial(handler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), serving) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.reads
        server.shutdown()


@pytest.mark.parametrize("processes", [1, 2])
def test_files_at_addresses_are_read_once_on_a_host(processes, web, tiny_model, tmp_path):
    """Two of the same name are two."""
    place, reads = web
    pools = [f"{place}/{folder}/p.jsonl" for folder in "ab"]
    run = ["run", *pools, "--model", tiny_model, *OPTIONS, "--output", tmp_path / "run"]
    done = spice_together(processes, *run)
    assert done.returncode == 0, done.stderr
    assert reads == {"/a/p.jsonl": 1, "/b/p.jsonl": 1}
    local = select([tmp_path / "web" / folder / "p.jsonl" for folder in "ab"], model=tiny_model, **FAST)
    assert read_jsonl(tmp_path / "run" / "selected.jsonl") == local.rows
