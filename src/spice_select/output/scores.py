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

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spice_select.output.atomic import replacing
from spice_select.output.records import Measures, PoolRecord
from spice_select.pool.records import Line

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
    """Write the table."""
    with replacing(path) as temporary:
        pq.write_table(scores_table(pool, records), temporary)


def scores_table(pool: Sequence[Line], records: Sequence[PoolRecord]) -> pa.Table:
    """The table; every row belongs to one record, or to none if it was excluded."""
    lines: list[dict[str, Any]] = [{"picked": False} for _ in pool]
    for record in records:
        rank = {place: i for i, place in enumerate(record.picks)}
        for place, row in enumerate(record.rows):
            lines[row] = {"pool": record.pool, "rank": rank.get(place), "picked": place in rank}
            lines[row] |= _measured(record.measures, place)
        for bad in record.bad:
            lines[bad.row] |= {"pool": record.pool, "problem": bad.reason}
    return pa.Table.from_pylist([asdict(row) | line for row, line in zip(pool, lines, strict=True)], schema=SCHEMA)


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
