"""Generated code passes when it runs to its end, and cannot hurt the machine on its way."""

import os
import socket
import subprocess
import tempfile
import time

import pytest

from spice_select.evaluation.tasks import sandbox
from spice_select.evaluation.tasks.programs import humaneval_score, mbpp_score
from spice_select.evaluation.tasks.sandbox import isolation, passes

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX limits")


def refused(statement: str) -> str:
    """A program that passes exactly when the statement raises PermissionError."""
    attempt = f"try:\n    {statement}\nexcept PermissionError:\n    pass\nelse:\n    raise SystemExit(1)\n"
    return f"import os, socket, subprocess\n{attempt}"


@pytest.mark.parametrize(
    "program", ["", "x = 1", "import math, re, collections, dataclasses, heapq, itertools, typing"]
)
def test_a_program_that_runs_to_its_end_passes(program):
    assert passes(program)


@pytest.mark.parametrize(
    "program",
    [
        "assert False",
        "def f(:",
        "\x00",
        "raise SystemExit(0)",
        "exit()",
        "import os; os._exit(0)",
        "import os, sys; os.write(1, b'passed'); sys.exit(0)",
        "import os; os.abort()",
        "import sys; sys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
        "import numpy",
    ],
)
def test_a_program_that_ends_early_does_not_pass(program):
    assert not passes(program)


def test_dataclasses_and_the_main_module_work_as_in_a_script():
    assert passes(
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
        "assert __name__ == '__main__' and P(1).x == 1"
    )


@pytest.mark.parametrize(
    "program",
    ["while True: pass", "import time; time.sleep(60)", "try:\n    while True: pass\nexcept BaseException:\n    pass"],
)
def test_an_endless_program_is_stopped(program, namespaces):
    assert not passes(program, seconds=1)


def test_a_memory_hog_fails_alone():
    assert not passes("x = bytearray(1 << 31)", memory_bytes=1 << 28)
    assert passes("x = bytearray(1 << 20)", memory_bytes=1 << 28)


@pytest.mark.parametrize(
    "statement",
    [
        "os.fork()",
        "os.system('true')",
        "subprocess.run(['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 9)",
        "import ctypes; ctypes.CDLL(None)",
    ],
)
def test_no_processes_and_no_foreign_functions(statement):
    assert passes(refused(statement))


@pytest.fixture(params=["as found", "without namespaces"])
def namespaces(request, monkeypatch):
    if request.param == "without namespaces":
        monkeypatch.setattr(sandbox, "isolation", tuple)


def children(command: str) -> list[str]:
    """Processes of this machine with that command line."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if command in line]


def test_children_that_slip_past_the_hook_die_with_the_program(namespaces):
    seconds = f"{70000 + os.getpid()}"
    spawn = f"spawnv_passfds(b'/bin/sleep', [b'sleep', b'{seconds}'], ())"
    loops = ["for _ in range(4)"] if os.getuid() == 0 else ["for _ in range(4)", "while True"]
    for loop in loops:
        slipped = passes(f"from multiprocessing.util import spawnv_passfds\n{loop}: assert {spawn} > 0", seconds=1)
        assert slipped or os.getuid() != 0, "the hook stopped them: find another way past it"
    deadline = time.monotonic() + 10
    while (left := children(f"sleep {seconds}")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def test_writes_stay_in_the_working_directory(tmp_path):
    outside, kept = tmp_path / "new", tmp_path / "kept"
    kept.write_text("kept")
    for statement in (
        f"open({str(outside)!r}, 'w')",
        f"open({str(kept)!r}, 'a')",
        f"open({str(kept)!r}, 'r+')",
        f"os.open({str(outside)!r}, os.O_CREAT)",
        f"os.remove({str(kept)!r})",
        f"os.rename({str(kept)!r}, 'stolen')",
        f"os.mkdir({str(outside)!r})",
        f"os.truncate({str(kept)!r}, 0)",
        f"os.chmod({str(kept)!r}, 0)",
        f"os.symlink('x', {str(outside)!r})",
        f"os.symlink({str(tmp_path)!r}, 'link'), open('link/new', 'w')",
        "open('../verdict', 'w')",
    ):
        assert passes(refused(statement)), statement
    assert kept.read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]


def test_the_working_directory_is_empty_writable_and_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = (
        "import os, tempfile\nassert os.listdir() == []\nopen('x', 'w').write('1')\nassert open('x').read() == '1'\n"
    )
    assert passes(program + "os.mkdir('d'); os.rename('x', 'd/y'); os.remove('d/y')\ntempfile.TemporaryFile()")
    assert list(tmp_path.iterdir()) == []


def test_files_have_a_largest_size():
    assert not passes("f = open('big', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20)); f.flush()")


def test_the_users_environment_is_not_there(monkeypatch):
    monkeypatch.setenv("SPICE_SECRET", "s3cret")
    assert passes("import os\nassert 'SPICE_SECRET' not in os.environ and 's3cret' not in str(os.environ)")


def test_the_network_is_not_there(namespaces):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        assert passes(refused(f"socket.create_connection({address!r}, timeout=1)"))
        assert passes(refused(f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', {address!r})"))
    assert passes(refused("socket.getaddrinfo('localhost', 80)"))


def test_a_namespace_has_only_its_own_loopback():
    if not isolation():
        pytest.skip("no unprivileged user namespaces here")
    assert passes("import socket\nassert [name for _, name in socket.if_nameindex()] == ['lo']")


def test_nothing_of_the_session_outlives_the_program():
    started = time.time()
    assert passes("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()")
    assert time.time() - started < 60


def test_pass_at_1_of_the_two_benchmarks():
    doc = {"prompt": "def twice(x):\n", "test": "def check(f):\n    assert f(2) == 4", "entry_point": "twice"}
    assert humaneval_score(doc, ["    return 2 * x"]) == {"pass_at_1": 1.0}
    assert humaneval_score(doc, ["    return x"]) == {"pass_at_1": 0.0}
    tests = {"test_list": ["assert f(1) == 1", "assert f(2) == 4", "assert f(3) == 9", "assert f(4) == 0"]}
    assert mbpp_score(tests, ["def f(x):\r\n    return x * x"]) == {"pass_at_1": 1.0}
    assert mbpp_score(tests, ["def f(x):\n    return x"]) == {"pass_at_1": 0.0}
