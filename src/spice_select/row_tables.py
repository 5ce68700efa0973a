"""Tables with one line per usable row of a pool, in the pool's order, written and read a part at a time.

Lines: index, id, source, location, tokens, trained_tokens. `rows.parquet` of a store adds `norm` and `loss`,
`scores.parquet` of a run what was measured. Texts (`pool.parquet` of a store, `texts.parquet` of a run's checkpoint)
add `number`, `row` (JSON of the row) and `chat` (JSON with `messages`, `tools`, `untrained`, `template_options`).
"""

# pyarrow ships no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUnknownMemberType=false

import base64
import datetime
import decimal
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from spice_select.errors import OutputError
from spice_select.files.atomic import replacing
from spice_select.files.records import damage_reported
from spice_select.pool.examples import Example
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.messages import Conversation
from spice_select.pool.types import Line, Row

ROW_GROUP = 1 << 16
"""Lines that are made and written together."""
_TEXT_GROUP = 4096
"""Rows that are read together when the text of one is wanted."""

_LINE = [("index", pa.int64()), ("id", pa.string()), ("source", pa.string()), ("location", pa.string()),
         ("tokens", pa.int32()), ("trained_tokens", pa.int32())]  # fmt: skip
_LINES = pa.schema(_LINE)
_TEXTS = pa.schema([*_LINE, ("number", pa.int64()), ("row", pa.string()), ("chat", pa.string())])
_ROWS = pa.schema([*_LINE, ("norm", pa.float64()), ("loss", pa.float64())])


@dataclass(frozen=True, slots=True)
class StoredChat:
    """A row with its chat, as a table of texts holds it."""

    id: str
    row: Row
    conversation: Conversation


Chat = Example | StoredChat
"""That from which files of chosen rows are written."""


def line_tables(lines: Sequence[Line]) -> Iterator[tuple[slice, pa.Table]]:
    """The lines as tables, part by part, each with the places of its lines."""
    for start in range(0, len(lines), ROW_GROUP):
        part = slice(start, min(start + ROW_GROUP, len(lines)))
        yield part, pa.Table.from_pylist([asdict(line) for line in lines[part]], schema=_LINES)


def write_rows(path: Path, lines: Sequence[Line], norms: Tensor, losses: Tensor) -> None:
    """Write `rows.parquet`; `norms` [n] are |g| before projection, `losses` [n] NaN, which is null, if not known."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, _ROWS) as writer:
        for part, table in line_tables(lines):
            table = table.append_column("norm", pa.array(norms[part].numpy(), pa.float64()))
            known = pa.array(losses[part].numpy(), pa.float64(), from_pandas=True)
            writer.write_table(table.append_column("loss", known))


def read_lines(path: Path, remedy: str) -> Rows[Line]:
    """The lines of a table that has their columns; raises `OutputError`, which ends with `remedy`, if it is damaged."""
    with damage_reported(path, remedy, pa.ArrowException, OSError, ValueError):
        table = pq.read_table(path, columns=_LINES.names).combine_chunks()
        table.validate(full=True)  # texts are decoded when a line is needed: damage must be reported now

    def lines(start: int, stop: int) -> list[Line]:
        columns = (column.slice(start, stop - start).to_pylist() for column in table.columns)
        return [Line(*values) for values in zip(*columns, strict=True)]

    return Rows(table["tokens"].to_numpy(), table["trained_tokens"].to_numpy(), lines)


class WithText(Protocol):
    """What a table of texts holds of a row."""

    @property
    def row(self) -> Row:
        """The row as it was read."""
        ...

    @property
    def conversation(self) -> Conversation:
        """Its chat."""
        ...

    @property
    def line(self) -> Line:
        """It without its text."""
        ...


def write_texts(path: Path, examples: Sequence[WithText]) -> None:
    """Write every row with its text."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, _TEXTS, compression="zstd") as writer:
        for start in range(0, len(examples), _TEXT_GROUP):
            lines = [_text_line(example) for example in examples[start : start + _TEXT_GROUP]]
            writer.write_table(pa.Table.from_pylist(lines, schema=_TEXTS), row_group_size=_TEXT_GROUP)


def read_texts(path: Path, rows: Sequence[int], remedy: str) -> list[StoredChat]:
    """These rows of what `write_texts` wrote, in this order; only the parts of the file that hold them are read.

    Raises `OutputError`, which ends with `remedy`, if the file is damaged.
    """
    wanted: dict[int, list[int]] = {}
    for row in rows:
        wanted.setdefault(row // _TEXT_GROUP, []).append(row)
    found: dict[int, StoredChat] = {}
    damage = (pa.ArrowException, OSError, LookupError, ValueError, TypeError, RecursionError)
    with damage_reported(path, remedy, *damage):
        file = pq.ParquetFile(path)
        for group, members in wanted.items():
            table = file.read_row_group(group).take([row - group * _TEXT_GROUP for row in members])
            found |= {row: _chat(line) for row, line in zip(members, table.to_pylist(), strict=True)}
    return [found[row] for row in rows]


def plain_json(row: Mapping[str, Any]) -> str:
    """A row as JSON text, with dates, decimals and bytes as text; raises `OutputError` for any other foreign value."""
    return json.dumps(row, ensure_ascii=False, default=_plain)


def _plain(value: object) -> str:
    """Text of a value that Parquet and datasets can hold and JSON cannot."""
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise OutputError(f"a row holds a value of type {type(value).__name__}, which JSON cannot; drop that column first.")


def _text_line(example: WithText) -> dict[str, Any]:
    row, chat = example.row, example.conversation
    content = {
        "messages": chat.messages,
        "tools": chat.tools,
        "untrained": sorted(chat.untrained),
        "template_options": dict(chat.template_options),
    }
    texts = {"number": row.number, "row": plain_json(row.data), "chat": plain_json(content)}
    return asdict(example.line) | texts


def _chat(line: Mapping[str, Any]) -> StoredChat:
    content = json.loads(line["chat"])
    untrained, options = frozenset[int](content["untrained"]), content.get("template_options", {})
    chat = Conversation(content["messages"], content["tools"], untrained, options)
    return StoredChat(line["id"], Row(line["source"], line["location"], line["number"], json.loads(line["row"])), chat)
