"""The store's tables: the pool with its texts, and a line for every row with its gradient's norm.

`pool.parquet`: index, id, source, location, number, tokens, trained_tokens, row (JSON of the row as it was), chat (JSON
with `messages`, `tools`, `untrained`). `rows.parquet`: index, id, source, location, tokens, trained_tokens, norm.
`pool.json`: inputs, rows left out, and what trainers' files need to know.
"""

# pyarrow ships no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUnknownMemberType=false

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from spice_select.errors import OutputError
from spice_select.files.atomic import replacing, write_text
from spice_select.output.scores import ROW_GROUP
from spice_select.output.subset import plain_json
from spice_select.pool.examples import Example, Pool
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.messages import Conversation
from spice_select.pool.types import Line, Listing, Rejection, Row, SourceFile
from spice_select.store.layout import AGAIN, POOL, ROWS, TEXTS, as_json, read_json

_GROUP = 4096  # rows that are read together when texts are wanted
_LINE = [("index", pa.int64()), ("id", pa.string()), ("source", pa.string()), ("location", pa.string()),
         ("tokens", pa.int32()), ("trained_tokens", pa.int32())]  # fmt: skip
_TEXTS = pa.schema([*_LINE, ("number", pa.int64()), ("row", pa.string()), ("chat", pa.string())])
_ROWS = pa.schema([*_LINE, ("norm", pa.float64())])


@dataclass(frozen=True, slots=True)
class StoredChat:
    """A row of the store with its chat; what files of chosen rows are made of."""

    id: str
    row: Row
    conversation: Conversation


def write_pool(store: Path, pool: Pool, about: dict[str, Any]) -> None:
    """Write `pool.parquet` and `pool.json`; `about` are further plain values for the latter."""
    write_texts(store / TEXTS, pool)
    listed = {
        **about,
        "truncated": pool.truncated,
        "inputs": [asdict(file) for file in pool.files],
        "rejected": [json.loads(plain_json(asdict(item))) for item in pool.rejected],
    }
    write_text(store / POOL, as_json(listed))


def write_texts(path: Path, pool: Pool) -> None:
    """Write every row with its text, as `pool.parquet`."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, _TEXTS, compression="zstd") as writer:
        for start in range(0, len(pool.examples), _GROUP):
            lines = [_text_line(example) for example in pool.examples[start : start + _GROUP]]
            writer.write_table(pa.Table.from_pylist(lines, schema=_TEXTS), row_group_size=_GROUP)


def write_rows(path: Path, lines: Sequence[Line], norms: Tensor) -> None:
    """Write `rows.parquet`; `norms` [n] are |g| before projection."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, _ROWS) as writer:
        for start in range(0, len(lines), ROW_GROUP):
            part = slice(start, start + ROW_GROUP)
            table = pa.Table.from_pylist([asdict(line) for line in lines[part]], schema=pa.schema(_LINE))
            writer.write_table(table.append_column("norm", pa.array(norms[part].numpy(), pa.float64())))


def read_lines(path: Path) -> Rows[Line]:
    """The lines in a table that has their columns. Raises what pyarrow raises where it cannot be read."""
    table = pq.read_table(path, columns=[name for name, _ in _LINE]).combine_chunks()
    table.validate(full=True)  # texts are decoded when a line is asked for: damage must be told now

    def made(start: int, stop: int) -> list[Line]:
        columns = (column.slice(start, stop - start).to_pylist() for column in table.columns)
        return [Line(*values) for values in zip(*columns, strict=True)]

    return Rows(table["tokens"].to_numpy(), table["trained_tokens"].to_numpy(), made)


def read_listing(store: Path) -> Listing:
    """The pool without its texts."""
    about = read_json(store / POOL)
    try:
        lines = read_lines(store / ROWS)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise OutputError(f"{store / ROWS}: is damaged ({str(error).splitlines()[0]}).\n{AGAIN}") from None
    try:
        rejected = [Rejection(**item) for item in about["rejected"]]
        files = [SourceFile(**item) for item in about["inputs"]]
        return Listing(lines, rejected, files, int(about["truncated"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise OutputError(f"{store / POOL}: is damaged ({error}).\n{AGAIN}") from None


def read_chats(store: Path, rows: Sequence[int]) -> list[StoredChat]:
    """These rows of the store, in this order, with their texts. Raises as `read_texts`."""
    return read_texts(store / TEXTS, rows)


def read_texts(path: Path, rows: Sequence[int], remedy: str = AGAIN) -> list[StoredChat]:
    """These rows of what `write_texts` wrote, in this order; only the parts of the file that hold them are read.

    Raises:
        OutputError: the file is damaged.

    """
    try:
        return _read_chats(pq.ParquetFile(path), rows)
    except (pa.ArrowException, OSError, LookupError, ValueError, TypeError, RecursionError) as error:
        raise OutputError(f"{path}: is damaged ({str(error).splitlines()[0]}).\n{remedy}") from None


def _read_chats(file: pq.ParquetFile, rows: Sequence[int]) -> list[StoredChat]:
    wanted: dict[int, list[int]] = {}
    for row in rows:
        wanted.setdefault(row // _GROUP, []).append(row)
    found: dict[int, StoredChat] = {}
    for group, members in wanted.items():
        table = file.read_row_group(group)
        lines = table.take([row - group * _GROUP for row in members]).to_pylist()
        found |= {row: _chat(line) for row, line in zip(members, lines, strict=True)}
    return [found[row] for row in rows]


def _text_line(example: Example) -> dict[str, Any]:
    row, chat = example.row, example.conversation
    content = {"messages": chat.messages, "tools": chat.tools, "untrained": sorted(chat.untrained)}
    return {
        "index": example.index,
        "id": example.id,
        "source": row.source,
        "location": row.location,
        "tokens": len(example.input_ids),
        "trained_tokens": example.trained_tokens,
        "number": row.number,
        "row": plain_json(row.data),
        "chat": plain_json(content),
    }


def _chat(line: dict[str, Any]) -> StoredChat:
    content = json.loads(line["chat"])
    chat = Conversation(content["messages"], content["tools"], frozenset(content["untrained"]))
    return StoredChat(line["id"], Row(line["source"], line["location"], line["number"], json.loads(line["row"])), chat)
