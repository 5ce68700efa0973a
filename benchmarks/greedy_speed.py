"""Picking k of n rows: ours against submodlib-py, eager forms and a plain loop; large stores; growth with n and k.

    python benchmarks/greedy_speed.py peers  [--repeats 5]     n = 5,000, d = 1,024, k = 500, and 120 to 5,000 rows
    python benchmarks/greedy_speed.py large  --scratch DIR     stores of 100,000 x 4,096 and 1,000,000 x 512, k = 10,000
    python benchmarks/greedy_speed.py growth                   time against n and k, fitted, with a log-log plot

`peers` needs submodlib-py, numba, scikit-learn and scipy beside this project. Every run is a process of its own, the
arms in turns; seconds leave out start-up and making the features, and memory is what the arm added (anonymous pages: a
mapped store's are the system's). Each writes its section of benchmarks/RESULTS.md.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from greedy_arms import ARMS

from report import machine, write_section

HERE = Path(__file__).parent
ROWS, DIM, PICKS = 5000, 1024, 500
SLOW = {"plain loop": 1, "submodlib, naive": 1}
EAGER = ("Cholesky, float64", "rank-one, float64", "Cholesky, float32")
SIZES = (120, 500, 1000, 2000, 5000)
CPU = torch.device("cpu")


def run(program: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, str(HERE / program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    print(arguments, done.stdout[:60], flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(arms: list[str], repeats: int, rows: int, dim: int, picks: int) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for repeat in range(repeats):
        for arm in arms:
            if repeat < SLOW.get(arm, repeats):
                results[arm].append(run("greedy_arms.py", arm, rows, dim, picks))
    return results


def ratios(own: list[dict[str, Any]], other: list[dict[str, Any]]) -> str:
    """The other arm's seconds over ours, pair by pair; an arm run once meets our median."""
    middle = statistics.median(result["seconds"] for result in own)
    base = [result["seconds"] for result in own] if len(own) == len(other) else [middle] * len(other)
    values = [result["seconds"] / b for result, b in zip(other, base, strict=True)]
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.2f}{spread}" if values[0] < 3 else f"{statistics.median(values):.1f}{spread}"


def peers(repeats: int) -> None:
    results = in_turns(list(ARMS), repeats, ROWS, DIM, PICKS)
    own = results["ours"]
    lines = [
        machine(CPU),
        "",
        f"n = {ROWS:,}, d = {DIM:,}, k = {PICKS}, features in float32, penalty 0.1 where an arm has one (submodlib has "
        "none). `ours` and `ours, Gram` calculate in float64. submodlib's time holds the kernel and the object's "
        "making. DPPy 0.3.3 samples only; it has no greedy MAP.",
        "",
        "| arm | runs | median s | over ours: median (min to max) | memory added, MB | picks shared with ours |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for arm, found in results.items():
        middle = statistics.median(result["seconds"] for result in found)
        memory = max(result["bytes"] for result in found) / 1e6
        shared = len(set(found[0]["picks"]) & set(own[0]["picks"]))
        lines.append(f"| {arm} | {len(found)} | {middle:.3f} | {ratios(own, found)} | {memory:,.0f} | {shared} |")
    lines += ["", "Other sizes, k = n / 10, d = 1,024: seconds of each arm over ours, medians of pairs.", ""]
    lines += [f"| n | ours, ms | {' | '.join(EAGER)} |", f"| --: | --: |{' --: |' * len(EAGER)}"]
    for rows in SIZES:
        found = in_turns(["ours", *EAGER], repeats, rows, DIM, rows // 10)
        middle = 1000 * statistics.median(result["seconds"] for result in found["ours"])
        cells = " | ".join(ratios(found["ours"], found[arm]) for arm in EAGER)
        lines.append(f"| {rows:,} | {middle:.1f} | {cells} |")
    write_section("Greedy choice beside others", "greedy_speed.py", lines)


def large(scratch: str) -> None:
    lines = [
        machine(CPU),
        "",
        "Stores in bfloat16 on disk, made by `greedy_store.py`; squared norms and picks with penalty 0.1, then "
        "certificate, curvature and every row's gain. Resident memory: without the mapped file, with the program.",
        "",
        "| n | d | k | features, MB | squared norms, s | picks, s | in all, s | resident, MB | certificate |",
        "| --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for rows, dim, picks in ((100_000, 4096, 10_000), (1_000_000, 512, 10_000)):
        place = Path(scratch) / f"store-{rows}-{dim}"
        found = run("greedy_store.py", place, rows, dim, picks)
        lines.append(
            f"| {rows:,} | {dim:,} | {picks:,} | {rows * dim * 2 / 1e6:,.0f} | {found['norms']:.0f} "
            f"| {found['picks']:.0f} | {found['seconds']:.0f} | {found['peak'] / 1e6:,.0f} | {found['ratio']:.3f} |"
        )
    write_section("Large stores", "greedy_speed.py", lines)


def exponent(sizes: list[int], seconds: list[float]) -> float:
    xs, ys = [math.log(size) for size in sizes], [math.log(value) for value in seconds]
    return statistics.linear_regression(xs, ys).slope


def growth() -> None:
    mpl.use("svg")
    from matplotlib import pyplot

    by_rows = {rows: run("greedy_arms.py", "ours", rows, 256, 500)["seconds"] for rows in (2000, 8000, 32000, 128000)}
    by_picks = {k: run("greedy_arms.py", "ours", 32000, 256, k)["seconds"] for k in (125, 500, 2000, 8000)}
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.2), constrained_layout=True)
    lines = [machine(CPU), "", "d = 256; `ours`, once each.", ""]
    for axis, (label, found) in zip(axes, (("n (k = 500)", by_rows), ("k (n = 32,000)", by_picks)), strict=True):
        slope = exponent(list(found), list(found.values()))
        axis.loglog(list(found), list(found.values()), "o-", color="#0072b2")
        axis.set(xlabel=label, ylabel="seconds", title=f"fitted exponent {slope:.2f}")
        axis.grid(visible=True, which="both", alpha=0.3)
        listed = ", ".join(f"{size:,}: {value:.2f} s" for size, value in found.items())
        lines.append(f"- {label}: {listed}; fitted exponent {slope:.2f}")
    figure.savefig(HERE / "greedy_growth.svg", metadata={"Date": None})
    lines += ["", "![time against n and k](greedy_growth.svg)"]
    write_section("Growth of the greedy choice", "greedy_speed.py", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("peers", "large", "growth"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scratch", default=".")
    arguments = parser.parse_args()
    if arguments.what == "peers":
        peers(arguments.repeats)
    elif arguments.what == "large":
        large(arguments.scratch)
    else:
        growth()


if __name__ == "__main__":
    main()
