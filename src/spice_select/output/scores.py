"""`scores.parquet`: one line per usable row of the pool, in the pool's order.

Columns, format version 1:
    index, id, source, location          which row; index counts usable rows from 0
    pool, rank, picked                   rank 0 is the first pick of its pool, null means not picked
    norm                                 |g_i| before scaling
    base, gain, epsilon, conflict, score at the moment of the pick; for the rest, at the end of their pool; nats
    tokens, trained_tokens
    problem                              why the row could not be chosen, if so; null for all others
The measured columns are null where no gradient was computed (method random, and pools without a quota).
"""

# pyarrow ships no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spice_select.choices import Measures, PoolRecord
from spice_select.files.atomic import replacing
from spice_select.pool.types import Line

ROW_GROUP = 1 << 16
"""Rows of a table of all rows that are made and written together."""

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("location", pa.string()),
        ("pool", pa.int32()),
        ("rank", pa.int32()),
        ("picked", pa.bool_()),
        ("norm", pa.float64()),
        ("base", pa.float64()),
        ("gain", pa.float64()),
        ("epsilon", pa.float64()),
        ("conflict", pa.float64()),
        ("score", pa.float64()),
        ("tokens", pa.int32()),
        ("trained_tokens", pa.int32()),
        ("problem", pa.string()),
    ],
    metadata={"spice_select.format_version": "1"},
)


def write_scores(path: Path, pool: Sequence[Line], records: Sequence[PoolRecord]) -> None:
    """Write the table, a part of the pool at a time."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for part in _parts(pool, records):
            writer.write_table(part)


def scores_table(pool: Sequence[Line], records: Sequence[PoolRecord]) -> pa.Table:
    """The table; every row belongs to one record, or to none if it was excluded."""
    return pa.concat_tables(_parts(pool, records))


def _parts(pool: Sequence[Line], records: Sequence[PoolRecord]) -> Iterator[pa.Table]:
    owner, places, ranks = np.full((3, len(pool)), -1, np.int32)  # of each row: its record, its place there, its rank
    bad = {row.row: (record.pool, row.reason) for record in records for row in record.bad}
    for number, record in enumerate(records):
        rows = np.array(record.rows, np.int64)
        owner[rows], places[rows] = number, np.arange(len(rows))
        ranks[rows[record.picks]] = np.arange(len(record.picks))
    for start in range(0, len(pool), ROW_GROUP):
        lines: list[dict[str, Any]] = []
        for line in pool[start : start + ROW_GROUP]:
            number, place, rank = (int(column[line.index]) for column in (owner, places, ranks))
            told: dict[str, Any] = {**asdict(line), "picked": rank >= 0}
            if number >= 0:
                told |= {"pool": records[number].pool, "rank": rank if rank >= 0 else None}
                told |= _measured(records[number].measures, place)
            elif line.index in bad:
                told["pool"], told["problem"] = bad[line.index]
            lines.append(told)
        yield pa.Table.from_pylist(lines, schema=SCHEMA)


def _measured(measures: Measures | None, place: int) -> dict[str, float]:
    if measures is None:
        return {}
    return {
        "norm": measures.norm[place],
        "base": measures.base[place],
        "gain": measures.gain[place],
        "epsilon": measures.epsilon[place],
        "conflict": measures.conflict[place],
        "score": measures.score[place],
    }
