"""Kill `run`, `gradients`, `pick`, `finetune` and `study` at random moments, go on, compare with undisturbed ones.

    python tests/faults/kills.py --kills 120 --seed 1

Every process is the real command line, forked from one that has the modules loaded, so that kills fall into its work.
After each kill every file there must be whole; a command that comes to its end must leave byte for byte what an
undisturbed one left.
SIGTERM and SIGINT are sent, too: these must end in one line that says how to go on, and in their own exit code.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import importlib

import pyarrow.parquet as pq
from safetensors import safe_open

from faults.killed_commands import Command, commands
from spice_select.cli import main
from spice_select.errors import REPEAT

MODULES = ("spice_select.api.select", "spice_select.api.pick", "spice_select.cli.run", "spice_select.cli.table")
MODULES += ("spice_select.training.finetune", "spice_select.study.run", "spice_select.study.figures")
MODULES += ("trl.trainer.sft_trainer", "matplotlib.figure", "matplotlib.backends.backend_svg")
LOADED = [importlib.import_module(name) for name in MODULES]
"""What commands import when they start or at work, loaded before they are forked."""

TEMPORARY = ".spice-"
SPARED = ("manifest.json", "report.html", "run.yaml", "README.md")
"""Files of a run that name its directory or hold seconds."""

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def start(arguments: list[str], log: Path) -> int:
    """Fork a process that runs the command line with `arguments`; its words go to `log`."""
    pid = os.fork()
    if pid == 0:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv = ["spice-select", *arguments]
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            code = 70
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return pid


def finish(pid: int) -> int:
    """Wait for a process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def interrupt(pid: int, delay: float, number: int) -> int | None:
    """Send a signal after `delay` seconds; the exit code, or None where the process had ended before."""
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return None
        time.sleep(0.002)
    os.kill(pid, number)
    return finish(pid)


def content(output: Path) -> dict[str, bytes]:
    """What a finished command left and an undisturbed one leaves alike."""
    return {
        str(path.relative_to(output)): without_seconds(path)
        for path in sorted(output.rglob("*"))
        if path.is_file()
        and not passing(path, output)
        and not path.name.endswith(("cost.json", "cost.svg"))
        and not (path.name in SPARED and (path.parent / "checkpoint").is_dir())
        and not (path.parent.name == "checkpoint" and path.name == "identity.json")
        and not (path.parent.match("checkpoint/gradients") and path.name == "manifest.json")
    }


def passing(path: Path, output: Path) -> bool:
    """Whether a file is, or lies in, what a kill may leave under a temporary name, or is a claim."""
    return any(part.startswith(TEMPORARY) or part == ".claims" for part in path.relative_to(output).parts)


def without_seconds(path: Path) -> bytes:
    """A file's bytes; of a record or a table, without the time and the memory that its making took."""
    if path.name == "table.md":
        return path.read_bytes().partition(b"\nCost:")[0]
    if path.name == "lines.json":
        return json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "cost"}).encode()
    if path.match("checkpoint/pool-*.json") or path.name == "finetune.json":
        record = json.loads(path.read_text())
        return json.dumps({key: value for key, value in record.items() if key != "seconds"}).encode()
    return path.read_bytes()


def check_whole(output: Path) -> None:
    """Fail where a file under its final name is cut or damaged."""
    for path in output.rglob("*"):
        if not path.is_file() or passing(path, output):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".parquet":
            pq.read_table(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                list(file.keys())
        elif path.suffix == ".jsonl":
            [json.loads(line) for line in path.read_text().splitlines()]
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path


def check_checkpoint(command: Command, before: dict[str, bytes]) -> None:
    """Fail where a fine-tuning's record stands beside files that are neither all earlier ones nor all new ones."""
    if (command.output / "finetune.json").exists():
        assert content(command.output) in (before, command.left), f"{command.name}: a mixture of two checkpoints"


def make_earlier_checkpoint(folder: Path, under_test: list[Command], log: Path) -> None:
    """Fine-tune otherwise than the command under test, for that one to replace."""
    words = next(command for command in under_test if command.name == "finetune").first
    words = [*words, "--seed", "7", "--output", str(folder / "earlier")]
    assert finish(start(words, log)) == 0, log.read_text()


def undisturbed(command: Command, log: Path) -> None:
    """Run a command without interruption and keep what it leaves, and how long it took."""
    command.prepare(command.output)
    started = time.monotonic()
    code = finish(start(command.again(command.output), log))
    assert code == 0, f"{command.name}: {log.read_text()}"
    command.left = content(command.output)
    command.seconds = time.monotonic() - started


def check_message(number: int, code: int, words: str) -> None:
    """A signal that can be answered ends in its exit code and in one line, without a traceback."""
    assert code == EXIT_CODES[signal.Signals(number)], (code, words)
    told = words[words.index("spice-select:") :].splitlines()
    assert len(told) == 1 and REPEAT in told[0] and "Traceback" not in words, words


def torment(command: Command, kills: int, moments: random.Random, log: Path) -> Counter[str]:
    """Interrupt a command until it was killed so often, beginning anew whenever it comes to its end."""
    counts: Counter[str] = Counter()
    command.prepare(command.output)
    before = content(command.output) if command.output.exists() else {}
    while counts["SIGKILL"] < kills:
        started = time.monotonic()
        pid = start(command.again(command.output), log)
        number = moments.choice([signal.SIGKILL] * 6 + [signal.SIGTERM, signal.SIGINT])
        code = interrupt(pid, moments.uniform(0.0, 1.1) * command.seconds, number)
        if command.output.exists():
            check_whole(command.output)
            check_checkpoint(command, before)
        if code is None:
            code = finish(pid)
        if code == 0:
            assert content(command.output) == command.left, f"{command.name}: another result than undisturbed"
            counts["finished"] += 1
            command.prepare(command.output)
            command.seconds = min(command.seconds, time.monotonic() - started)  # the first run was slower than most
            continue
        assert code != 70 and code in (-signal.SIGKILL, *EXIT_CODES.values()), f"{command.name}: {log.read_text()}"
        counts[signal.Signals(number).name] += 1
        if number != signal.SIGKILL:
            check_message(number, code, log.read_text())
    pid = start(command.again(command.output), log)
    assert finish(pid) == 0, f"{command.name}: {log.read_text()}"
    assert content(command.output) == command.left, f"{command.name}: another result than undisturbed"
    counts["finished"] += 1
    return counts


def listed(counts: Counter[str]) -> str:
    """Counts in words."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def main_script() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=120, help="SIGKILLs over all commands")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    moments = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="spice-kills-") as scratch:
        folder, log = Path(scratch), Path(scratch) / "log.txt"
        under_test = commands(folder)
        total: Counter[str] = Counter()
        make_earlier_checkpoint(folder, under_test, log)
        for command in under_test:
            undisturbed(command, log)
        for command in reversed(under_test):  # the pick needs the store as it is
            counts = torment(command, -(-given.kills // len(under_test)), moments, log)
            print(f"{command.name:13}", listed(counts), flush=True)
            total += counts
        print(f"seed {given.seed}: {listed(total)}")
        print("every file was whole after every kill, every finished command left what an undisturbed one leaves")


if __name__ == "__main__":
    main_script()
