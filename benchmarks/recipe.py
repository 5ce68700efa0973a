"""Do the commands of docs/recipe.md run as they are printed, and how long does each take?

    python benchmarks/recipe.py POOL.jsonl [--rows 2000] [--model MODEL] [--output DIR]

The rows of POOL (JSON lines, also .gz, with a field `source`) are shuffled: the first `--rows` are pool.jsonl, 16 more
rows of the most frequent source are task.jsonl, and 96 others heldout.jsonl. The commands run one after the other in
DIR, with MODEL in place of each model that the page names; the first that fails ends the program with its exit code.
Prints the seconds that each takes.
"""

import argparse
import gzip
import json
import random
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipe.md"
TARGET, HELD_OUT = 16, 96


def commands(page: str, model: str) -> list[list[str]]:
    """The words of each command in the page's bash blocks, with `model` in place of the models."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    words = [shlex.split(line) for line in lines if line.strip()]
    return [
        [model if before == "--model" else word for before, word in zip(["", *one], one, strict=False)] for one in words
    ]


def write_files(pool: Path, rows: int, folder: Path) -> None:
    """The three files that the page calls the reader's."""
    opened = gzip.open if pool.suffix == ".gz" else open
    with opened(pool, "rt", encoding="utf-8") as stream:
        found: list[dict[str, Any]] = [json.loads(line) for line in stream]
    random.Random(0).shuffle(found)
    rest = found[rows:]
    kind = Counter(row["source"] for row in rest).most_common(1)[0][0]
    task = [row for row in rest if row["source"] == kind][:TARGET]
    held_out = [row for row in rest if row not in task][:HELD_OUT]
    for name, chosen in (("pool", found[:rows]), ("task", task), ("heldout", held_out)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--output", type=Path, default=Path("spice-run-recipe"))
    options = parser.parse_args()
    options.output.mkdir()
    write_files(options.pool, options.rows, options.output)
    for words in commands(PAGE.read_text(encoding="utf-8"), options.model):
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "spice_select", *words[1:]], cwd=options.output, check=False)
        print(f"{time.monotonic() - start:8.1f} s  {shlex.join(words)}", flush=True)
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
