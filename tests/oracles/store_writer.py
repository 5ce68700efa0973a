"""A process that fills a store with numbers that anyone can compute: run by tests, killed by tests.

python store_writer.py STORE ROWS DIM SECONDS_A_SHARD
"""

import sys
import time
from pathlib import Path

import torch

from spice_select.files.atomic import write_text
from spice_select.files.locks import make_once
from spice_select.gradients.finite import RowFeatures
from spice_select.pool.types import Line
from spice_select.row_tables import write_rows
from spice_select.store.layout import POOL, PROXY, TEXTS, Shape
from spice_select.store.writing import begin_store, compute_shards, finish_store

SHARD_ROWS = 8


def features_of(rows: range, dim: int) -> torch.Tensor:
    """What row i of the store holds, before it is rounded to bfloat16."""
    return torch.sin(torch.arange(rows.start, rows.stop)[:, None] * 0.7 + torch.arange(dim) * 0.3)


def lines_of(count: int) -> list[Line]:
    """What the table of rows holds."""
    return [Line(i, f"row-{i}", f"source-{i % 3}", f"p.jsonl, row {i + 1}", 9 + i, 3 + i) for i in range(count)]


def write_store(store: Path, rows: int, dim: int, pause: float = 0.0, seed: int = 0) -> list[str]:
    """Fill `store`; returns what was noted."""
    shape, notes = Shape(rows, dim, SHARD_ROWS), []

    def pool(place: Path) -> None:
        write_text(place / POOL, '{"inputs": [], "rejected": [], "truncated": 0}')
        write_text(place / TEXTS, "texts")

    def compute(members: range) -> RowFeatures:
        time.sleep(pause)
        features = features_of(members, dim)
        return RowFeatures(features, features.double().square().sum(dim=1), features[:, 0].double() + 2)

    begin_store(store, {"seed": seed, "dim": dim, "rows": rows}, pool)
    make_once(store / PROXY, lambda: b"proxy")
    compute_shards(store, shape, compute, notes.append)
    finish_store(store, shape, lambda path, squares, losses: write_rows(path, lines_of(rows), squares.sqrt(), losses))
    return notes


if __name__ == "__main__":
    write_store(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
