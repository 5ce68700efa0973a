"""One choice from a large gradient store with made-up features, measured.

python benchmarks/greedy_store.py STORE ROWS DIM PICKS     makes STORE if it is not there; prints one line of JSON
"""

import json
import sys
import time
from pathlib import Path

import torch
from memory import PeakMemory

from spice_select.files.atomic import write_text
from spice_select.files.locks import make_once
from spice_select.gradients.finite import RowFeatures
from spice_select.information import RowLimit, choose_rows, moments_of
from spice_select.pool.types import Line
from spice_select.row_tables import write_rows
from spice_select.store.layout import POOL, PROXY, TEXTS, Shape
from spice_select.store.reading import GradientStore
from spice_select.store.writing import begin_store, compute_shards, finish_store

SHARD_ROWS = 4096


def make(store: Path, rows: int, dim: int) -> None:
    spread = torch.arange(1, dim + 1, dtype=torch.float32) ** -0.35
    common = 0.3 * spread * torch.randn(dim, generator=torch.Generator().manual_seed(0))

    def pool(place: Path) -> None:
        write_text(place / POOL, '{"inputs": [], "rejected": [], "truncated": 0}')
        write_text(place / TEXTS, "")

    def features(members: range) -> RowFeatures:
        generator = torch.Generator().manual_seed(members.start)
        made = torch.randn(len(members), dim, generator=generator) * spread + common
        made *= torch.exp(0.4 * torch.randn(len(members), 1, generator=generator))
        return RowFeatures(made, made.square().sum(dim=1), torch.ones(len(members)))

    shape = Shape(rows, dim, SHARD_ROWS)
    begin_store(store, {"rows": rows, "dim": dim}, pool)
    make_once(store / PROXY, lambda: b"none")
    compute_shards(store, shape, features, print)
    lines = [Line(i, f"row-{i}", "made", f"row {i}", 9, 3) for i in range(rows)]
    finish_store(store, shape, lambda path, squares, losses: write_rows(path, lines, squares.sqrt(), losses))


def main() -> None:
    place, rows, dim, picks = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    if not (place / "manifest.json").exists():
        make(place, rows, dim)
    with PeakMemory() as memory:
        start = time.perf_counter()
        store = GradientStore.open(place)
        moments = moments_of(store)
        normed = time.perf_counter()
        alpha = 1.0 / float(moments.squared_norms.mean())
        selection = choose_rows(moments, RowLimit(picks), alpha, 0.1, None)
        picked = time.perf_counter()
        ratio = selection.certificate.ratio  # computed when it is read
        end = time.perf_counter()
    measured = {
        "seconds": end - start,
        "norms": normed - start,
        "picks": picked - normed,
        "peak": memory.peak,
        "ratio": ratio,
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
