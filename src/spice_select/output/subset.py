"""The chosen rows as files: exactly as they were, as chats of one schema, and what was rejected."""

# pyarrow ships no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false

import base64
import datetime
import decimal
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spice_select.errors import OutputError
from spice_select.files.atomic import replacing
from spice_select.output.trainers import training_row, training_table
from spice_select.pool.types import Chat, Rejection


def write_selected(path: Path, examples: Sequence[Chat]) -> None:
    """`selected.jsonl`: each row with all its fields, in the order of `examples`."""
    _write_jsonl(path, (example.row.data for example in examples))


def write_selected_parquet(path: Path, examples: Sequence[Chat]) -> None:
    """`selected.parquet`: the same rows as a table.

    Raises:
        OutputError: a field holds values of different types, which a Parquet column cannot.

    """
    rows = [dict(example.row.data) for example in examples]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    try:
        table = pa.Table.from_pylist([{key: row.get(key) for key in columns} for row in rows])
        with replacing(path) as temporary:
            pq.write_table(table, temporary)
    except (pa.ArrowException, OverflowError) as error:
        raise OutputError(
            f"{path.name}: the rows do not share one schema ({str(error).splitlines()[0]}).\n"
            "Give the command again without --parquet (run: with --resume); selected.jsonl holds any mixture."
        ) from None


def write_training_table(path: Path, examples: Sequence[Chat]) -> pa.Table:
    """`train.parquet`: the same rows as chats of one schema, which every trainer reads."""
    table = training_table([training_row(e.conversation, e.id, e.row.source) for e in examples])
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
    return table


def write_rejected(path: Path, rejected: Sequence[Rejection]) -> None:
    """`rejected.jsonl`: where each unusable row stood, why it was left out, and the row."""
    _write_jsonl(
        path,
        (
            {"source": r.source, "location": r.location, "row": r.number, "reason": r.reason, "raw": r.raw}
            for r in rejected
        ),
    )


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        stream.writelines(plain_json(row) + "\n" for row in rows)


def plain_json(row: Mapping[str, Any]) -> str:
    """A row as JSON text, with dates, decimals and bytes as text.

    Raises:
        OutputError: it holds a value that no text stands for.

    """
    return json.dumps(row, ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    """Values that Parquet and datasets hold and JSON does not."""
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise OutputError(f"a row holds a value of type {type(value).__name__}, which JSON cannot; drop that column first.")
