"""Instruction rows to tokenised examples with exact response masks: what every later stage reads.

    pool = read_pool(["gsm8k.jsonl.gz", "my/dataset"], tokenizer, PoolOptions(max_length=1024))

Rows keep the order of the inputs and of their files. A row that cannot be trained on stops the run with the
first five such rows, or, with `skip_invalid`, is listed in `Pool.rejected`; a chat template that fails every
row is an error of its own.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from spice_select.errors import PoolError, TemplateError
from spice_select.pool.encoding import Encoded, Encoder
from spice_select.pool.encoding import segments as _segments
from spice_select.pool.formats import Format, find_format, to_conversation
from spice_select.pool.messages import Conversation
from spice_select.pool.problems import RenderProblem, RowProblem, one_line
from spice_select.pool.readers import RawRow
from spice_select.pool.records import Example, Pool, PoolOptions, Rejection, Row, SourceFile
from spice_select.pool.rendering import Renderer, Rendering
from spice_select.pool.sources import PoolInput, Source, resolve_sources

__all__ = [
    "Example",
    "Pool",
    "PoolInput",
    "PoolOptions",
    "Rejection",
    "Row",
    "SourceFile",
    "read_pool",
    "segments",
]

_BATCH = 1024  # rows rendered and tokenised together
_SHOWN = 5  # invalid rows that an error names


@dataclass(frozen=True, slots=True)
class _Chat:
    """A row on its way: read, and, if it holds what its format needs, a conversation."""

    row: Row
    given_id: str | None
    conversation: Conversation


def read_pool(
    inputs: Sequence[PoolInput], tokenizer: PreTrainedTokenizerBase, options: PoolOptions | None = None
) -> Pool:
    """Read, check, render and tokenise every row of every input.

    Args:
        inputs: files (.jsonl, .json, .csv, each also .gz, .parquet), folders of `datasets.save_to_disk`, hub
            datasets (`owner/name` or `owner/name:split`), `datasets.Dataset`s, lists of dicts.
        tokenizer: the proxy model's, with its chat template if it has one.
        options: None for the defaults.

    Raises:
        PoolError: an input cannot be read, rows are invalid (without `skip_invalid`), or none is valid.
        TemplateError: the chat template is broken, refuses every row, or hides which tokens are the
            assistant's.
        ModelError: the tokenizer cannot be used.

    """
    options = options or PoolOptions()
    renderer, encoder = Renderer(tokenizer), Encoder(tokenizer)
    chats: list[_Chat | Rejection] = []
    files: list[SourceFile] = []
    mapped: set[str] = set()
    for source in resolve_sources(inputs):
        mapped |= _read_source(source, options, chats, files)
    _check_columns_used(options.columns, mapped)
    encoded = list(_encode(chats, renderer, encoder, options))
    rejected = [item for item in encoded if isinstance(item, Rejection)]
    valid = [item for item in encoded if not isinstance(item, Rejection)]
    _stop_on_problems(rejected, len(valid), options.skip_invalid)
    ids = _unique_ids([chat for chat, _ in valid])
    examples = [
        _example(index, name, chat, tokens, options.max_length)
        for index, (name, (chat, tokens)) in enumerate(zip(ids, valid, strict=True))
    ]
    return Pool(examples, rejected, files)


def segments(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """An example's text in alternating runs, each with whether it is trained; for people to look at."""
    return _segments(example.input_ids, example.trained, tokenizer)


def _read_source(
    source: Source, options: PoolOptions, chats: list[_Chat | Rejection], files: list[SourceFile]
) -> set[str]:
    """Add one input's rows to `chats` and its record to `files`; the columns options that it used."""
    rows = list(source.rows())
    parsed = [row.data for row in rows if row.data is not None]
    if not rows:
        raise PoolError(f"{source.label}: holds no rows.")
    columns = {role: c for role, c in options.columns.items() if any(c in data for data in parsed[:100])}
    if parsed:
        found = find_format(source.label, parsed, options.format, columns)
        chats.extend(_to_chat(source, row, found, columns) for row in rows)
    else:
        found = None
        chats.extend(_rejection(source, row, row.problem or "", columns) for row in rows)
    format_name = found.name if found else "none"
    files.append(SourceFile(source.name, source.path, format_name, len(rows), _digest(source, rows)))
    return set(columns)


def _digest(source: Source, rows: Iterable[RawRow]) -> str:
    if source.file is not None:
        with source.file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.data, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _check_columns_used(columns: Mapping[str, str], used: set[str]) -> None:
    for role, name in columns.items():
        if role not in used:
            raise PoolError(f"columns: no input has a column '{name}' (given for '{role}').\nCheck its spelling.")


def _to_chat(source: Source, row: RawRow, found: Format, columns: Mapping[str, str]) -> _Chat | Rejection:
    if row.data is None:
        return _rejection(source, row, row.problem or "cannot be parsed", columns)
    try:
        conversation = to_conversation(row.data, found, columns)
    except RowProblem as problem:
        return _rejection(source, row, problem.reason, columns)
    kept = Row(_source_name(source, row, columns), _location(source, row), row.number, row.data)
    given = row.data.get(columns.get("id", "id"))
    usable = (isinstance(given, str) and given.strip()) or (isinstance(given, int) and not isinstance(given, bool))
    return _Chat(kept, str(given) if usable else None, conversation)


def _rejection(source: Source, row: RawRow, reason: str, columns: Mapping[str, str]) -> Rejection:
    raw = row.raw if row.data is None else row.data
    return Rejection(_source_name(source, row, columns), _location(source, row), row.number, one_line(reason), raw)


def _source_name(source: Source, row: RawRow, columns: Mapping[str, str]) -> str:
    name = (row.data or {}).get(columns.get("source", "source"))
    return name if isinstance(name, str) and name.strip() else source.name


def _location(source: Source, row: RawRow) -> str:
    line = f" (line {row.line})" if row.line else ""
    return f"{source.label}, row {row.number}{line}"


def _encode(
    chats: list[_Chat | Rejection], renderer: Renderer, encoder: Encoder, options: PoolOptions
) -> Iterator[tuple[_Chat, Encoded] | Rejection]:
    """Every chat as tokens, or as a rejection, in order.

    Raises:
        TemplateError: the template fails one row and `skip_invalid` is off, or refuses every row.

    """
    rendered_any, refusal = False, None
    for first in range(0, len(chats), _BATCH):
        items: list[tuple[_Chat, Rendering] | Rejection] = []
        for chat in chats[first : first + _BATCH]:
            item = chat if isinstance(chat, Rejection) else _render(chat, renderer, options.skip_invalid)
            items.append(item)
            rendered_any |= not isinstance(item, Rejection)
            if refusal is None and isinstance(item, Rejection) and not isinstance(chat, Rejection):
                refusal = item
        yield from _tokenise(items, encoder, options.max_length)
    if refusal is not None and not rendered_any:
        raise TemplateError(
            f"Every row fails with this chat template; the first, {refusal.location}: {refusal.reason}.\n"
            "Use the tokenizer of another model, or bring the rows to what the template allows."
        )


def _render(chat: _Chat, renderer: Renderer, skip_invalid: bool) -> tuple[_Chat, Rendering] | Rejection:
    try:
        rendering = renderer.render(chat.conversation)
        rendering.text.encode()
    except UnicodeEncodeError:
        return _refused(chat, "a text holds half of a surrogate pair (broken Unicode)")
    except RenderProblem as problem:
        return _refused(chat, problem.reason)
    except TemplateError as error:
        if not skip_invalid:
            raise TemplateError(f"{chat.row.location}: {error}") from error
        return _refused(chat, str(error))
    return chat, rendering


def _refused(chat: _Chat, reason: str) -> Rejection:
    row = chat.row
    return Rejection(row.source, row.location, row.number, one_line(reason, 300), row.data)


def _tokenise(
    items: list[tuple[_Chat, Rendering] | Rejection], encoder: Encoder, max_length: int
) -> Iterator[tuple[_Chat, Encoded] | Rejection]:
    encoded = iter(encoder.encode([item[1] for item in items if not isinstance(item, Rejection)]))
    for item in items:
        if isinstance(item, Rejection):
            yield item
            continue
        chat, tokens = item[0], next(encoded)
        if not tokens.trained.any():
            yield _refused(chat, "the response gives no token to learn")
        elif not tokens.trained[:max_length].any():
            first = int(tokens.trained.argmax())
            yield _refused(
                chat, f"max_length {max_length} cuts off the whole response (it starts at token {first + 1})"
            )
        else:
            yield chat, tokens


def _stop_on_problems(rejected: list[Rejection], valid: int, skip_invalid: bool) -> None:
    if not rejected or (skip_invalid and valid):
        return
    total = len(rejected) + valid
    more = f"; the first {_SHOWN}" if len(rejected) > _SHOWN else ""
    listed = "; ".join(f"{r.location}: {r.reason}" for r in rejected[:_SHOWN])
    if valid:
        head = f"{len(rejected):,} of {total:,} rows cannot be trained on{more}:"
        remedy = "Mend them, or leave them out with --skip-invalid (skip_invalid: true)."
    else:
        head = f"No valid row is left: all {total:,} cannot be trained on{more}:"
        remedy = "Mend them, or say what the columns mean with --format and --column."
    raise PoolError(f"{head}\n{listed}.\n{remedy}")


def _unique_ids(chats: Sequence[_Chat]) -> list[str]:
    """One id a chat: its own or `source-number`; the second and later of the same get the first free `-2`, `-3`, ..."""
    wanted = [chat.given_id or f"{chat.row.source}-{chat.row.number}" for chat in chats]
    taken = set(wanted)
    seen: set[str] = set()
    next_suffix: dict[str, int] = {}
    ids: list[str] = []
    for name in wanted:
        unique = name
        if name in seen:
            suffix = next_suffix.get(name, 2)
            while f"{name}-{suffix}" in taken:
                suffix += 1
            unique = f"{name}-{suffix}"
            next_suffix[name] = suffix + 1
            taken.add(unique)
        seen.add(unique)
        ids.append(unique)
    return ids


def _example(index: int, name: str, chat: _Chat, tokens: Encoded, max_length: int) -> Example:
    ids, trained = tokens.input_ids, tokens.trained
    truncated = len(ids) > max_length
    if truncated:
        ids, trained = ids[:max_length].copy(), trained[:max_length].copy()
    conversation = chat.conversation
    return Example(index, name, chat.row, conversation, ids, trained, truncated)
