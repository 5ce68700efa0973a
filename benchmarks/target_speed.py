"""Choosing for a target: ours beside activeft, and from a large store.

    python benchmarks/target_speed.py peers [--repeats 3]     n = 5,000, d = 1,024, k = 500, 16 target rows
    python benchmarks/target_speed.py cut                     the same in 128 directions, as of larger pools
    python benchmarks/target_speed.py large --scratch DIR     a store of 100,000 x 4,096, k = 10,000, 256 target rows

`peers` needs activeft and faiss-cpu beside this project. Every run is a process of its own, the arms in turns, with the
threads that OMP_NUM_THREADS allows. Each command writes its section of benchmarks/RESULTS.md.
"""

import argparse
import os
import statistics
from pathlib import Path

import torch
from greedy_speed import run

from report import machine, spread, write_section

ARMS = ("ours", "ours, signs ignored", "activeft VTL")
SIZES = (5000, 1024, 500, 16)
CPU = torch.device("cpu")


def peers(repeats: int) -> None:
    found = {arm: list[dict]() for arm in ARMS}
    for _ in range(repeats):
        for arm in ARMS:
            found[arm].append(run("target_arms.py", arm, *SIZES))
    rows, dim, picks, targets = SIZES
    lines = [
        machine(CPU),
        "",
        f"n = {rows:,}, d = {dim:,}, k = {picks}, {targets} target rows, unit rows in float32, alpha 1; pairs: "
        f"{repeats}. Load of the machine at the end: {os.getloadavg()[0]:.1f}. Ours calculates in float64, and its "
        "time holds the coverage of the target too. Variance: mean posterior variance of the target rows in all "
        "dimensions, in float64; activeft may pick a row twice, and `distinct` counts each once.",
        "",
        "| arm | median s | over ours | memory added, MB | variance | distinct rows | picks shared with ours |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    own = found["ours"]
    for arm, results in found.items():
        ratios = [other["seconds"] / one["seconds"] for other, one in zip(results, own, strict=True)]
        middle, first = statistics.median(result["seconds"] for result in results), results[0]
        shared = len(set(first["picks"]) & set(own[0]["picks"]))
        once = f"{first['variance']:.5f} (distinct rows {first['variance_distinct']:.5f})"
        lines.append(
            f"| {arm} | {middle:.2f} | {spread(ratios)} | {max(r['bytes'] for r in results) / 1e6:,.0f} | "
            f"{once} | {first['distinct']} | {shared} |"
        )
    write_section("Choice for a target beside activeft", "target_speed.py", lines)


def cut() -> None:
    rows, dim, picks, targets = SIZES
    found = {arm: run("target_arms.py", arm, *SIZES) for arm in ("ours", "ours, cut")}
    lines = [
        machine(CPU),
        "",
        f"n = {rows:,}, d = {dim:,}, k = {picks}, {targets} target rows as beside activeft, seen in all directions "
        "and in 128 of them.",
        "",
        "| seen in | variance | picks shared |",
        "| --- | --: | --: |",
    ]
    for arm, name in (("ours", "all directions"), ("ours, cut", "128 directions")):
        shared = len(set(found[arm]["picks"]) & set(found["ours"]["picks"]))
        lines.append(f"| {name} | {found[arm]['variance']:.5f} | {shared} |")
    write_section("What a cut of directions changes for a target", "target_speed.py", lines)


def large(scratch: Path) -> None:
    store = scratch / "store-100000-4096"
    if not (store / "manifest.json").exists():
        run("greedy_store.py", store, 100_000, 4096, 10)
    lines = [
        machine(CPU),
        "",
        "A store of 100,000 rows of 4,096 dimensions (819 MB in bfloat16), 256 target rows, 10,000 picks. Seconds from "
        "opening to the last pick; coverage of the picks, the whole pool and four random draws is computed afterwards, "
        "in all dimensions. Memory is what was added beside the mapped file.",
        "",
        "| rule | threads | load | seconds | of that survey and projection | processor seconds | memory added, MB |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for rule in ("information", "variance"):
        one = run("target_store.py", store, rule, 256, 10_000, "picks")
        load = os.getloadavg()[0]
        lines.append(
            f"| {rule} | {one['threads']} | {load:.1f} | {one['seconds']:.0f} | {one['seen']:.0f} | "
            f"{one['processor']:.0f} | {one['bytes'] / 1e6:,.0f} |"
        )
    write_section("Choice for a target from a large store", "target_speed.py", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["peers", "cut", "large"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scratch", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "peers":
        peers(arguments.repeats)
    elif arguments.command == "cut":
        cut()
    elif arguments.scratch is None:
        parser.error("large needs --scratch")
    else:
        large(arguments.scratch)


if __name__ == "__main__":
    main()
