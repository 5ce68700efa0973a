"""A gradient store against bergson's index of the same rows, each made by a process of its own.

    python benchmarks/gradient_peer.py POOL.jsonl --rows 256 --pairs 3

Both read the rows and load the embedded model through spice-select, with the same adapters and float32 weights, and
write what they found to disk: `ours` as `spice-select gradients` does (4,096 numbers a row), `bergson` through its
`collect_gradients`, with its own batches of at most 2,048 padded tokens and its two-sided projection to 4 x 4 numbers
of each of the 420 factors (6,720 a row). The arms alternate; the ratios are those of neighbouring processes. Needs
bergson: pip install --no-deps bergson, and what its import asks for. Writes its section of benchmarks/RESULTS.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ARMS = ("ours", "bergson")


def ours(pool: str, rows: int, output: Path) -> None:
    """Extract as `gradients` does; a line when all is loaded, one at the end."""
    from spice_select.config import RunConfig
    from spice_select.prepared import prepare
    from spice_select.progress import NoProgress
    from spice_select.schedule.extraction import extract_features
    from spice_select.stopwatch import Stopwatch

    prepared = prepare([first_rows(pool, rows)], RunConfig(candidates="all", warmup_steps=0), NoProgress())
    proxy = prepared.proxy(NoProgress())
    print("ready", flush=True)
    extract_features(prepared, proxy, output, NoProgress(), Stopwatch())


def bergson(pool: str, rows: int, output: Path) -> None:
    """Collect as bergson's `build` does, with the embeddings' gradient to start the graph."""
    import numpy as np
    from bergson.collection import collect_gradients
    from bergson.config.config import IndexConfig
    from bergson.data import allocate_batches
    from bergson.gradients import GradientProcessor
    from datasets import Dataset

    from spice_select.config import RunConfig
    from spice_select.prepared import prepare
    from spice_select.progress import NoProgress

    prepared = prepare([first_rows(pool, rows)], RunConfig(), NoProgress())
    proxy = prepared.proxy(NoProgress())
    examples = prepared.pool.examples
    labels = [np.where(example.trained, example.input_ids, -100).tolist() for example in examples]
    data = Dataset.from_dict(
        {
            "input_ids": [example.input_ids.tolist() for example in examples],
            "labels": labels,
            "length": [len(example.input_ids) for example in examples],
        }
    )
    proxy.model.get_input_embeddings().requires_grad_(True)
    prefix = proxy.model.base_model_prefix + "."
    config = IndexConfig(run_path=str(output), projection_dim=4, loss_reduction="mean")
    config.partial_run_path.mkdir(parents=True)
    print("ready", flush=True)
    collect_gradients(
        proxy.model,
        data,
        GradientProcessor(projection_dim=4),
        config,
        batches=allocate_batches(data["length"][:], config.token_batch_size),
        target_modules={name.removeprefix(prefix) for name in proxy.factors},
    )


def first_rows(pool: str, rows: int) -> list[dict]:
    """The first rows of a pool as they are."""
    import gzip

    opener = gzip.open if pool.endswith(".gz") else open
    with opener(pool, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for _, line in zip(range(rows), lines, strict=False)]


def timed(arm: str, pool: str, rows: int) -> tuple[float, float]:
    """Seconds until an arm's process was ready, and from then to its end."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, __file__, pool, "--rows", str(rows), "--arm", arm, "--output", f"{scratch}/out"]
        begun = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            ready = 0.0
            for line in process.stdout:
                if line.strip() == "ready":
                    ready = time.perf_counter() - begun
        if process.returncode:
            raise SystemExit(f"{arm} failed: run it alone with --arm {arm} --output DIR")
        return ready, time.perf_counter() - begun - ready


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.arm:
        {"ours": ours, "bergson": bergson}[arguments.arm](arguments.pool, arguments.rows, arguments.output)
        return
    import importlib.metadata

    import torch

    from report import machine, spread, write_section

    found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    for pair in range(arguments.pairs):
        for arm in ARMS if pair % 2 == 0 else ARMS[::-1]:
            found[arm].append(timed(arm, arguments.pool, arguments.rows))
            print(arm, found[arm][-1], flush=True)
    lines = [
        machine(torch.device("cpu")) + f" bergson {importlib.metadata.version('bergson')}.",
        "",
        f"{arguments.rows} rows, {arguments.pairs} pairs of processes; medians, and bergson's seconds over ours "
        "(min to max of the pairs).",
        "",
        "| | ours, s | bergson, s | ratio |",
        "| --- | --: | --: | --: |",
    ]
    parts = {"start-up": lambda t: t[0], "gradients": lambda t: t[1], "both": sum}
    for name, part in parts.items():
        values = {arm: [part(t) for t in times] for arm, times in found.items()}
        ratios = [b / a for a, b in zip(values["ours"], values["bergson"], strict=True)]
        medians = " | ".join(f"{statistics.median(values[arm]):.1f}" for arm in ARMS)
        lines.append(f"| {name} | {medians} | {spread(ratios)} |")
    write_section("Gradients beside bergson", "gradient_peer.py", lines)


if __name__ == "__main__":
    main()
