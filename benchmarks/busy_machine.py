"""What a run takes alone on its machine, and beside another process that keeps one core busy.

    python benchmarks/busy_machine.py POOL.jsonl [--rows 20] [--limit 300]

The same `spice-select run` on the pool's first rows, in a process of its own: with threads that spin while they wait
(libgomp's default, and so the program's before it set OMP_WAIT_POLICY), with threads that sleep (the program's
setting), and with a single thread; each idle and busy. Writes its section of benchmarks/RESULTS.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from run_split import first_rows

from report import machine, write_section

WAITING = {
    "spin, libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "sleep, as spice-select sets it": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""How threads wait, and the variables that make them."""

OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--limit", type=int, default=300, help="seconds after which a run is given up")
    arguments = parser.parse_args()
    lines = [
        machine(torch.device("cpu")),
        "",
        f"`spice-select run` on {arguments.rows} rows with the default proxy; the whole process, in seconds.",
        "",
        "| waiting threads | idle machine | another process on one core |",
        "| --- | --: | --: |",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        pool = first_rows(arguments.pool, arguments.rows, Path(scratch) / "pool.jsonl")
        for name, variables in WAITING.items():
            idle = seconds(pool, variables, arguments.limit)
            with busy_core():
                busy = seconds(pool, variables, arguments.limit)
            lines.append(f"| {name} | {idle} | {busy} |")
            print(lines[-1], flush=True)
    write_section("Busy machine", "busy_machine.py", lines)


def seconds(pool: Path, variables: dict[str, str], limit: int) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in OPENMP} | variables
    output = tempfile.mkdtemp(dir=pool.parent)
    command = [sys.executable, "-m", "spice_select", "run", str(pool), "--output", output]
    started = time.perf_counter()
    try:
        subprocess.run(command, env=environment, capture_output=True, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"unfinished after {limit}"
    return f"{time.perf_counter() - started:.0f}"


@contextmanager
def busy_core() -> Generator[None]:
    core = max(os.sched_getaffinity(0))
    loop = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", loop]) as process:
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    main()
