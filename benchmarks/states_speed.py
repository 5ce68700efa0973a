"""A store of states against one of gradients of the same rows, each made as `spice-select gradients` makes it.

    python benchmarks/states_speed.py POOL.jsonl --rows 1000 --pairs 5

Both load the embedded model once before time is taken; the gradients' warm-up is left out of theirs. The two alternate,
and the ratio is that of neighbouring runs. Writes its section of benchmarks/RESULTS.md.
"""

import argparse
import tempfile
import time
from pathlib import Path

from report import machine, spread, write_section
from spice_select.config import RunConfig
from spice_select.prepared import Prepared, prepare
from spice_select.progress import NoProgress
from spice_select.schedule.extraction import extract_features
from spice_select.stopwatch import Stopwatch


def seconds_of(prepared: Prepared) -> float:
    """Of a new store's features, files included; the model is loaded and warmed up before."""
    proxy, watch = prepared.proxy(NoProgress()), Stopwatch()
    with tempfile.TemporaryDirectory() as place:
        begun = time.perf_counter()
        extract_features(prepared, proxy, Path(place) / "store", NoProgress(), watch)
        return time.perf_counter() - begun - watch.seconds.get("proxy training", 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        part = Path(place) / "pool.jsonl"
        with arguments.pool.open(encoding="utf-8") as lines:
            part.write_text("".join(line for _, line in zip(range(arguments.rows), lines, strict=False)))
        states, gradients = (
            prepare([part], RunConfig.model_validate({"features": kind, "candidates": "all"}), NoProgress())
            for kind in ("states", "gradients")
        )
        pairs: list[tuple[float, float]] = []
        for number in range(arguments.pairs):
            order = (states, gradients) if number % 2 == 0 else (gradients, states)
            spent = {prepared.config.features: seconds_of(prepared) for prepared in order}
            pairs.append((spent["states"], spent["gradients"]))
            print(f"pair {number}: states {pairs[-1][0]:.1f} s, gradients {pairs[-1][1]:.1f} s", flush=True)
    rows, tokens = len(states.pool.examples), states.pool.total_tokens
    lines = [
        f"{machine(states.device)} {rows:,} rows, {tokens:,} tokens, SmolLM2-135M, {states.config.dtype}.",
        "",
        "| store of | seconds, median (lowest to highest) | over gradients |",
        "| --- | --: | --: |",
        f"| states | {spread([pair[0] for pair in pairs])} | {spread([pair[0] / pair[1] for pair in pairs])} |",
        f"| gradients | {spread([pair[1] for pair in pairs])} | 1 |",
    ]
    write_section("States beside gradients", "states_speed.py", lines)


if __name__ == "__main__":
    main()
