"""The tables that hold a line for every row, however many parts they are written in."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.store_writer import lines_of
from spice_select.choices import Measures, PoolRecord
from spice_select.output.scores import SCHEMA, scores_table, write_scores
from spice_select.row_tables import read_lines, write_rows

MEASURED = ["norm", "base", "gain", "epsilon", "conflict", "score"]


def record_of(number: int, rows: list[int], picks: list[int], measured: bool) -> PoolRecord:
    """A record whose values encode their row and measure."""
    columns = {name: [row + 0.1 * i for row in rows] for i, name in enumerate(MEASURED)}
    measures = Measures(**columns, alpha=1.0, information=1.0, random_information=1.0, bound=1.0, certificate=1.0,
                        bound_source="", curvature=0.0) if measured else None  # fmt: skip
    return PoolRecord(number, rows, picks, len(picks), False, 0.0, measures)


def records_of(order: list[int], sizes: list[int], measured: bool) -> list[PoolRecord]:
    """`order` cut into pools, in each every third row picked, the last one first."""
    records = []
    for number, size in enumerate(sizes):
        rows, order = order[:size], order[size:]
        records.append(record_of(number, rows, list(range(len(rows)))[::-3], measured))
    return records


def told_by(line, records) -> dict:
    """One line of the table, from its definition."""
    told = dict.fromkeys(SCHEMA.names) | {"picked": False}
    told |= {name: getattr(line, name) for name in ("index", "id", "source", "location", "tokens", "trained_tokens")}
    for record in records:
        if line.index in record.rows:
            place = record.rows.index(line.index)
            rank = record.picks.index(place) if place in record.picks else None
            told |= {"pool": record.pool, "rank": rank, "picked": rank is not None}
            if record.measures is not None:
                told |= {name: getattr(record.measures, name)[place] for name in MEASURED}
    return told


@settings(deadline=None)
@given(order=st.permutations(range(12)), sizes=st.lists(st.integers(0, 5), max_size=4), measured=st.booleans())
def test_scores_say_of_each_row_what_its_record_does(order, sizes, measured):
    """Rows of no record are listed too, with null measures."""
    lines, records = lines_of(12), records_of(order, sizes, measured)
    assert scores_table(lines, records).to_pylist() == [told_by(line, records) for line in lines]


@pytest.fixture(scope="module")
def many():
    """More rows than are written together."""
    return lines_of((1 << 16) + 50)


def test_scores_of_many_rows_are_one_table(tmp_path, many):
    """The written file holds the table of `scores_table`."""
    order = np.random.default_rng(0).permutation(len(many)).tolist()
    records = records_of(order, [40_000, 20_000], measured=False)
    write_scores(tmp_path / "scores.parquet", many, records)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.schema.equals(SCHEMA, check_metadata=True)
    assert table.equals(scores_table(many, records))
    picked = sorted(row for record in records for row in record.picked_rows)
    assert np.flatnonzero(table["picked"].to_numpy()).tolist() == picked
    assert table["index"].to_pylist() == list(range(len(many)))


def test_lines_of_many_rows_come_back(tmp_path, many):
    """Lines read back equal those written: all, some or one, norms and losses too."""
    norms = torch.arange(len(many), dtype=torch.float64)
    losses = torch.where(norms == 7, torch.nan, norms / 2)
    write_rows(tmp_path / "rows.parquet", many, norms, losses)
    lines = read_lines(tmp_path / "rows.parquet", "")
    assert list(lines) == many
    assert lines[65_530:65_545] == many[65_530:65_545]
    assert lines[-1] == many[-1]
    assert lines.tokens.tolist() == [line.tokens for line in many]
    assert lines.trained_tokens.tolist() == [line.trained_tokens for line in many]
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table["norm"].to_pylist() == norms.tolist()
    assert table["loss"].to_pylist() == [None if place == 7 else place / 2 for place in range(len(many))]
