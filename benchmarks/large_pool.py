"""How memory and time grow with the rows of a pool.

    python benchmarks/large_pool.py                      100,000 and 1,000,000 rows
    python benchmarks/large_pool.py --rows 100000 10000000

For each size a JSONL of short rows is made in a temporary folder, and a process of its own reads it and chooses 1 % of
it at random. Memory is anonymous: without files that are mapped, which need none that the system cannot take back.
Writes its section of benchmarks/RESULTS.md.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from memory import PeakMemory

from report import machine, write_section
from spice_select import select

WORDS = ["the", "a", "sum", "of", "two", "red", "blue", "trees", "houses", "walks", "because", "when", "river", "stone"]
SMALL = 2000
"""Rows read before anything is measured, so that what every pool needs is there."""


@dataclass(frozen=True)
class Measured:
    """One choice: bytes that it added at most, and seconds."""

    memory: int
    seconds: float


def make(path: Path, rows: int) -> None:
    generator = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            prompt, response = (" ".join(generator.choices(WORDS, k=generator.randint(2, 10))) for _ in range(2))
            row = {"id": f"row-{number:09d}", "source": WORDS[number % 7], "prompt": prompt, "response": response}
            stream.write(json.dumps(row) + "\n")


def measure(path: Path) -> Measured:
    small = path.with_name("small.jsonl")
    make(small, SMALL)
    select(small, method="random", budget="1%")
    with PeakMemory() as memory:
        start = time.perf_counter()
        select(path, method="random", budget="1%")
        seconds = time.perf_counter() - start
    return Measured(memory.above_start, seconds)


def in_a_process(rows: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.jsonl"
        make(path, rows)
        command = [sys.executable, __file__, "--measure", str(path)]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = Measured(**json.loads(told))
    print(f"{rows:,} rows", found, flush=True)
    return found


def write(found: dict[int, Measured]) -> None:
    lines = [
        machine(torch.device("cpu")),
        "",
        "Short rows, SmolLM2's tokenizer; `select` with method random and a budget of 1 %, reading included. Memory: "
        "anonymous, added at most to what is there before; a row's is the growth from the size above.",
        "",
        "| rows | MB | bytes a row | rows/s |",
        "| --: | --: | --: | --: |",
    ]
    before = None
    for rows, one in found.items():
        grown = "" if before is None else f"{(one.memory - found[before].memory) / (rows - before):,.0f}"
        lines.append(f"| {rows:,} | {one.memory / 1e6:,.0f} | {grown} | {rows / one.seconds:,.0f} |")
        before = rows
    write_section("Large pools", "large_pool.py", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--measure", type=Path, help="measure this file in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(asdict(measure(arguments.measure))))
        return
    found: dict[int, Measured] = {}
    for rows in arguments.rows:
        found[rows] = in_a_process(rows)
        write(found)  # each size as it is measured: the largest may take hours


if __name__ == "__main__":
    main()
