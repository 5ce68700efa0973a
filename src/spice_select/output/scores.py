"""`scores.parquet`: one line per usable row of the pool, in the pool's order.

Columns, format version 1:
    index, id, source, location          which row; index counts usable rows from 0
    pool, rank, picked                   rank 0 is the first pick of its pool, null means not picked
    norm                                 |g_i| before scaling
    base, gain, epsilon, conflict, score at the moment of the pick; for the rest, at the end of their pool; nats
    tokens, trained_tokens
    problem                              why the row could not be chosen; null for all others
    target_conflict                      how far the row points against the target; null without one
    loss                                 mean NLL of the row's response under the proxy, in nats; null for states
The measured columns are null where no gradient was computed (method random, and pools without a quota).
"""

# pyarrow ships no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUnknownMemberType=false

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spice_select.choices import PoolRecord
from spice_select.files.atomic import replacing
from spice_select.pool.types import Line
from spice_select.row_tables import line_tables

MEASURED = ("norm", "base", "gain", "epsilon", "conflict", "score")

SCHEMA = pa.schema(
    [("index", pa.int64()), ("id", pa.string()), ("source", pa.string()), ("location", pa.string()),
     ("pool", pa.int32()), ("rank", pa.int32()), ("picked", pa.bool_()),
     *((name, pa.float64()) for name in MEASURED),
     ("tokens", pa.int32()), ("trained_tokens", pa.int32()), ("problem", pa.string()),
     ("target_conflict", pa.float64()), ("loss", pa.float64())],
    metadata={"spice_select.format_version": "1"},
)  # fmt: skip


def write_scores(path: Path, lines: Sequence[Line], records: Sequence[PoolRecord]) -> None:
    """Write the table, a part of the pool at a time."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for part in _parts(lines, records):
            writer.write_table(part)


def scores_table(lines: Sequence[Line], records: Sequence[PoolRecord]) -> pa.Table:
    """The table; every row belongs to one record, or to none if it was excluded."""
    return pa.concat_tables(_parts(lines, records))


def _parts(lines: Sequence[Line], records: Sequence[PoolRecord]) -> Iterator[pa.Table]:
    pools, ranks = np.full((2, len(lines)), -1, np.int32)  # -1 and NaN stand for null
    measured = {name: np.full(len(lines), np.nan) for name in (*MEASURED, "target_conflict", "loss")}
    problems = {row.row: row.reason for record in records for row in (*record.bad, *record.leaks)}
    for record in records:
        rows = np.array(record.rows, np.int64)
        pools[record.all_rows] = record.pool
        ranks[rows[record.picks]] = np.arange(len(record.picks))
        if record.measures is not None:
            for name in MEASURED:
                measured[name][rows] = getattr(record.measures, name)
            if record.measures.loss is not None:
                measured["loss"][rows] = record.measures.loss
        if record.target is not None:
            measured["target_conflict"][rows] = record.target.conflict
    for part, table in line_tables(lines):
        columns = {
            **dict(zip(table.column_names, table.columns, strict=True)),
            "pool": pa.array(pools[part], mask=pools[part] < 0),
            "rank": pa.array(ranks[part], mask=ranks[part] < 0),
            "picked": pa.array(ranks[part] >= 0),
            **{name: pa.array(column[part], from_pandas=True) for name, column in measured.items()},
            "problem": pa.array([problems.get(row) for row in range(part.start, part.stop)], pa.string()),
        }
        yield pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)
