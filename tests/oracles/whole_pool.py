"""A pool read the obvious way: every step over the list of all rows before the next step begins.

It shares with the product what one row becomes (formats, rendering, tokens), and nothing of how rows are passed on,
kept, named and counted.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from spice_select.errors import PoolError, TemplateError
from spice_select.pool.encoding import Encoder
from spice_select.pool.examples import PoolOptions, Rejection, SourceFile
from spice_select.pool.formats import Layout, unused_columns
from spice_select.pool.layouts import find_layouts
from spice_select.pool.messages import Conversation
from spice_select.pool.problems import MarkedRow, RenderProblem, RowProblem, one_line
from spice_select.pool.rendering import Renderer
from spice_select.pool.sources import resolve_sources


@dataclass
class WholeRow:
    """A usable row, with everything about it."""

    source: str
    location: str
    number: int
    data: dict[str, Any]
    wanted: str
    conversation: Conversation
    layout: Layout
    id: str = ""
    input_ids: tuple[int, ...] = ()
    trained: tuple[bool, ...] = ()
    truncated: bool = False

    def rejected(self, reason):
        return Rejection(self.source, self.location, self.number, reason.rstrip("."), self.data)


def whole_pool(inputs, tokenizer, options: PoolOptions) -> tuple[list[WholeRow], list[Rejection], list[SourceFile]]:
    """Usable rows, rejected ones and inputs; raises what `read_pool` raises."""
    renderer, encoder = Renderer(tokenizer), Encoder(tokenizer)
    files, mapped, rows = [], set(), []
    for source in resolve_sources(inputs):
        rows += _read(source, options, files, mapped)
    for role, name in options.columns.items():
        if role not in mapped:
            raise PoolError(f"columns: no input has a column '{name}' (given for '{role}').\nCheck its spelling.")
    rendered = [_rendered(row, renderer, options.skip_invalid) for row in rows]
    refused = [new for row, new in zip(rows, rendered, strict=True) if isinstance(new, Rejection) and new is not row]
    if refused and all(isinstance(new, Rejection) for new in rendered):
        raise TemplateError(
            f"Every row fails with this chat template; the first, {refused[0].location}: {refused[0].reason}.\n"
            "Name another model or template (--model, --chat-template), or bring the rows to what this one allows."
        )
    done = [_with_tokens(new, encoder, options.max_length) for new in rendered]
    rejected = [row for row in done if isinstance(row, Rejection)]
    usable = [row for row in done if not isinstance(row, Rejection)]
    if rejected and not (options.skip_invalid and usable):
        more = "; the first 5" if len(rejected) > 5 else ""
        listed = "; ".join(f"{row.location}: {row.reason}" for row in rejected[:5])
        head = f"{len(rejected):,} of {len(done):,} rows cannot be trained on{more}:"
        remedy = "Correct them, or leave them out with --skip-invalid (skip_invalid: true)."
        if not usable:
            head = f"No valid row is left: all {len(done):,} cannot be trained on{more}:"
            remedy = "Correct them, or say what the columns mean with --format and --column."
        raise PoolError(f"{head}\n{listed}.\n{remedy}")
    for row, name in zip(usable, unique_names([row.wanted for row in usable]), strict=True):
        row.id = name
    return usable, rejected, files


def unique_names(wanted: list[str]) -> list[str]:
    """The second and later of the same name get the first free `-2`, `-3`, ..."""
    taken, seen, names = set(wanted), set(), []
    for name in wanted:
        unique, suffix = name, 2
        if name in seen:
            while f"{name}-{suffix}" in taken:
                suffix += 1
            unique = f"{name}-{suffix}"
            taken.add(unique)
        seen.add(unique)
        names.append(unique)
    return names


def _read(source, options, files, mapped):
    raws = list(source.rows())
    if not raws:
        raise PoolError(f"{source.label}: holds no rows.")
    parsed = [raw.data for raw in raws if raw.data is not None]
    columns = {role: c for role, c in options.columns.items() if any(c in data for data in parsed[:100])}
    mapped |= set(columns)
    layouts = find_layouts(source.label, parsed, options.format, columns, source.filled_nulls) if parsed else None
    rows = [_row(source, raw, layouts) for raw in raws]
    formats: dict[str, int] = {}
    unused: dict[str, int] = {}
    main = layouts.main if layouts else None
    for raw, row in zip(raws, rows, strict=True):
        if isinstance(row, WholeRow):
            name = row.layout.format.name
            formats[name] = formats.get(name, 0) + 1
            used = row.layout.used_columns()
        elif layouts:
            used = [name for layout in [main] if layout for name in layout.used_columns()]
            used = used or [name for layout in layouts.all.values() for name in layout.used_columns()]
        for name in unused_columns(raw.data or {}, used) if layouts else []:
            unused[name] = unused.get(name, 0) + 1
    if source.file is None:
        text = "".join(json.dumps(raw.data, sort_keys=True, default=str) + "\n" for raw in raws)
        digest = hashlib.sha256(text.encode()).hexdigest()
    else:
        digest = hashlib.sha256(source.file.read_bytes()).hexdigest()
    first = main.format.name if main else "none"
    name = "mixed" if len(formats) > 1 else next(iter(formats), first)
    usable = [row for row in rows if isinstance(row, WholeRow)]
    filled = {name for row in usable for name in row.data for one in usable if name in one.layout.used_columns()}
    counts = {
        "marked in the data": sum(len(row.conversation.marked) for row in usable),
        "before the answer": sum(len(row.conversation.untrained - row.conversation.marked) for row in usable),
    }
    untrained = {why: count for why, count in counts.items() if count}
    files.append(
        SourceFile(
            source.name, source.path, name, len(raws), digest, unused, formats, sorted(filled), untrained, source.label
        )
    )
    return rows


def _row(source, raw, layouts):
    line = f" (line {raw.line})" if raw.line else ""
    location = f"{source.label}, row {raw.number}{line}"
    if raw.data is None:
        return Rejection(source.name, location, raw.number, one_line(raw.problem), raw.text)
    columns = layouts.columns
    named = raw.data.get(columns.get("source", "source"))
    name = named if isinstance(named, str) and named.strip() else source.name
    try:
        layout, conversation = layouts.read(raw.data)
    except RowProblem as problem:
        marked = isinstance(problem, MarkedRow)
        return Rejection(name, location, raw.number, one_line(problem.reason), raw.data, marked)
    given = raw.data.get(columns.get("id", "id"))
    usable = (isinstance(given, str) and given.strip()) or (isinstance(given, int) and not isinstance(given, bool))
    wanted = str(given) if usable else f"{name}-{raw.number}"
    return WholeRow(name, location, raw.number, raw.data, wanted, conversation, layout)


def _rendered(row, renderer, skip_invalid):
    if isinstance(row, Rejection):
        return row
    try:
        rendering = renderer.render(row.conversation)
    except RenderProblem as problem:
        return row.rejected(one_line(problem.reason, 300))
    except TemplateError as error:
        if not skip_invalid:
            raise TemplateError(f"{row.location}: {error}") from error
        return row.rejected(one_line(str(error), 300))
    return row, rendering


def _with_tokens(item, encoder, max_length):
    if isinstance(item, Rejection):
        return item
    row, rendering = item
    [tokens] = encoder.encode([rendering])
    if not tokens.trained.any():
        return row.rejected("the response gives no token to learn")
    if not tokens.trained[:max_length].any():
        first = int(tokens.trained.argmax()) + 1
        return row.rejected(f"max_length {max_length} cuts off the whole response (it starts at token {first})")
    row.input_ids = tuple(tokens.input_ids[:max_length].tolist())
    row.trained = tuple(tokens.trained[:max_length].tolist())
    row.truncated = len(tokens.input_ids) > max_length
    return row
