"""Does a long run need more memory the longer it lasts? Memory after every candidate pool of a run with updates.

    python benchmarks/steady_memory.py POOL.jsonl --pools 120 --candidates 8

The embedded proxy, updates after every 5 pools, a checkpoint after each pool; rows are read and the model is loaded
before the first sample. The largest of the first 20 pools, after which every kind of pass has been seen, is compared
with the largest of the last 20. Writes its section of benchmarks/RESULTS.md.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from memory import anonymous

from report import machine, write_section
from spice_select import select
from spice_select.progress import NoProgress

ENDS = 20
"""Pools at the beginning, and at the end, that are compared."""


class Samples(NoProgress):
    """Memory whenever another pool is done."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.bytes = checkpoint, list[int]()

    def advance(self, rows: int, tokens: int) -> None:  # noqa: ARG002, D102
        if len(list(self.checkpoint.glob("pool-*.json"))) > len(self.bytes):
            self.bytes.append(anonymous())


def first_rows(pool: Path, count: int, longest: int) -> list[dict[str, object]]:
    rows = (json.loads(line) for line in pool.read_text(encoding="utf-8").splitlines() if len(line) <= longest)
    return [row for row, _ in zip(rows, range(count), strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path, help="JSON Lines")
    parser.add_argument("--pools", type=int, default=120)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--longest", type=int, default=800, help="characters of a row")
    given = parser.parse_args()
    rows = first_rows(given.pool, given.pools * given.candidates, given.longest)
    with tempfile.TemporaryDirectory() as scratch:
        samples = Samples(Path(scratch) / "run" / "checkpoint")
        select(
            rows, output=Path(scratch) / "run", progress=samples, candidates=given.candidates, budget="25%",
            update_every=5, update_batch_size=4, directions="all",
        )  # fmt: skip
    first, last = max(samples.bytes[:ENDS]), max(samples.bytes[-ENDS:])
    write_section(
        "Memory of a long run",
        "steady_memory.py",
        [
            machine(torch.device("cpu")),
            "",
            f"SmolLM2-135M, {len(rows)} rows of up to {given.longest} characters in {given.pools} candidate pools of "
            f"{given.candidates}, an update of the proxy after every 5; {len(samples.bytes)} samples.",
            "",
            "| anonymous memory, at most | MiB |",
            "| --- | --: |",
            f"| pools 1 to {ENDS} | {first / 2**20:,.1f} |",
            f"| the last {ENDS} pools | {last / 2**20:,.1f} |",
            "",
            f"Growth: {100 * (last / first - 1):+.2f} %.",
        ],
    )


if __name__ == "__main__":
    main()
