"""Where the time of a whole `spice-select run` goes, and how well its forecast and three others' came true.

    python benchmarks/run_split.py POOL.jsonl

Four cases, each the real command in a process of its own: `--dry-run` first, then the command itself, whose wall time
and peak resident memory are measured from outside. Writes two sections of benchmarks/RESULTS.md.
"""

import argparse
import gzip
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from report import machine, write_section
from spice_select.amounts import GIB

CASES: dict[str, tuple[int | None, list[str]]] = {
    "run, the whole pool": (None, ["run"]),
    "run, 360 rows, 1,024 tokens a pass": (360, ["run", "--batch-tokens", "1024"]),
    "run, 360 rows, last:4": (360, ["run", "--layers", "last:4"]),
    "gradients, 360 rows": (360, ["gradients"]),
}
"""Rows of the pool (None: all), and the command."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    arguments = parser.parse_args()
    lines = [
        machine(torch.device("cpu")),
        "",
        "| case | time forecast, s | taken, s | error | memory forecast, GiB | taken, GiB | error |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, (rows, command)) in enumerate(CASES.items()):
            pool = first_rows(arguments.pool, rows, Path(scratch) / f"pool-{number}.jsonl")
            output = Path(scratch) / f"out-{number}"
            told, _, _ = run([*command, str(pool), "--output", str(output), "--dry-run"])
            expected, memory = parse(told)
            _, taken, peak = run([*command, str(pool), "--output", str(output)])
            if rows is None:
                write_split(json.loads((output / "manifest.json").read_text())["seconds"], taken)
            lines.append(
                f"| {name} | {expected:.0f} | {taken:.0f} | {expected / taken - 1:+.0%} | {memory:.1f} | "
                f"{peak / GIB:.1f} | {memory * GIB / peak - 1:+.0%} |"
            )
            print(lines[-1], flush=True)
    lines += ["", "Time forecast: gradients and proxy training; taken: the whole process, start and reading included."]
    write_section("Forecasts", "run_split.py", lines)


def first_rows(pool: Path, rows: int | None, to: Path) -> Path:
    opener = gzip.open if pool.suffix == ".gz" else open
    with opener(pool, "rt", encoding="utf-8") as lines:
        to.write_text("".join(line for i, line in enumerate(lines) if rows is None or i < rows), encoding="utf-8")
    return to


def run(arguments: list[str]) -> tuple[str, float, int]:
    """Standard output, seconds and peak resident bytes of a `spice-select` process."""
    command = [sys.executable, "-m", "spice_select", *arguments]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        peak = [0]
        watcher = threading.Thread(target=watch, args=(process, peak), daemon=True)
        watcher.start()
        assert process.stdout is not None
        told = process.stdout.read()
        process.wait()
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return told, time.perf_counter() - started, peak[0]


def watch(process: "subprocess.Popen[str]", peak: list[int]) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            found = re.search(r"VmRSS:\s*(\d+) kB", status.read_text(encoding="utf-8"))
        except OSError:
            return
        peak[0] = max(peak[0], 1024 * int(found[1]) if found else 0)
        time.sleep(0.01)


def parse(told: str) -> tuple[float, float]:
    """Seconds and GiB of a forecast line."""
    found = re.search(r"about (?:(\d+):)?(\d+):(\d+).*? ([\d.]+) GiB", told)
    assert found is not None, told
    hours, minutes, seconds, memory = found.groups()
    return 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds), float(memory)


def write_split(seconds: dict[str, float], taken: float) -> None:
    rest = taken - sum(seconds.values())
    lines = [
        machine(torch.device("cpu")),
        "",
        "`spice-select run` on the whole pool with the default proxy.",
        "",
        "| stage | seconds | share |",
        "| --- | --: | --: |",
    ]
    for stage, spent in {**seconds, "starting Python, printing": rest}.items():
        lines.append(f"| {stage} | {spent:.1f} | {spent / taken:.1%} |")
    write_section("Where a run's time goes", "run_split.py", lines)


if __name__ == "__main__":
    main()
