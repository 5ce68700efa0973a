"""`spice-select inspect`: what a pool looks like to the model, before anything is spent on it."""

import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from spice_select.cli.options import SectionedCommand, config_options, given_options
from spice_select.cli.printable import printable
from spice_select.config import resolve

if TYPE_CHECKING:
    from spice_select.pool.table import Pool
    from spice_select.pool.types import Rejection

OPTIONS = ("model", "revision", "trust_remote_code", "format", "columns", "chat_template", "max_length")
QUANTILES = (0, 25, 50, 75, 95, 100)
_KINDS = 10  # most kinds of problems that are listed


@click.command("inspect", cls=SectionedCommand)
@click.argument("pools", nargs=-1, required=True, metavar="POOL...")
@config_options(*OPTIONS)
@click.option("--rows", default=3, show_default=True, type=click.IntRange(min=0), help="Examples to show.")
@click.option("--rejected", default=10, show_default=True, type=click.IntRange(min=0), help="Bad rows to list.")
def inspect_command(pools: tuple[str, ...], rows: int, rejected: int, **values: Any) -> None:
    """Show rendered examples with the trained tokens marked, lengths, and the rows that cannot be used."""
    config = resolve({}, given_options(values), "command line")

    from spice_select.pool.examples import PoolOptions, read_pool, segments
    from spice_select.proxy.loading import load_tokenizer, model_source

    tokenizer = load_tokenizer(model_source(config))
    options = PoolOptions(config.format, config.columns, True, config.max_length, config.per_file)
    console, notes = Console(highlight=False), list[str]()
    pool = read_pool(list(pools), tokenizer, options, notes.append)
    for line in _file_lines(pool):
        console.print(Text(printable(line)), soft_wrap=True)
    for note in notes:
        console.print(Text(printable(note)), soft_wrap=True)
    for example in pool.examples[:rows]:
        heading = f"\n--- {example.id} ({example.row.location}): {len(example.input_ids)} tokens, "
        console.print(Text(printable(f"{heading}{example.trained_tokens} trained"), style="bold"), soft_wrap=True)
        console.print(_marked(segments(example, tokenizer), console.is_terminal), soft_wrap=True)
    console.print()
    _print_lengths(console, "tokens", pool.examples.tokens.tolist())
    _print_lengths(console, "trained tokens", pool.examples.trained_tokens.tolist())
    console.print(f"{len(pool.examples):,} usable rows, {pool.truncated:,} cut at {config.max_length} tokens, "
                  f"{len(pool.rejected):,} rejected", soft_wrap=True)  # fmt: skip
    for bad in pool.rejected[:rejected]:
        console.print(Text(printable(f"  {bad.location}: {bad.reason}")), soft_wrap=True)
    if len(pool.rejected) > rejected:
        console.print(f"  and {len(pool.rejected) - rejected:,} more", soft_wrap=True)


def _file_lines(pool: "Pool") -> Iterator[str]:
    """What was found in each file: format, fields, tokens, turns that are context, rows left out by kind of reason."""
    from spice_select.pool.types import untrained_turns, unused_fields

    start = 0
    for file in pool.files:
        left_out = [row for row in pool.rejected if row.location.startswith(f"{file.label}, row ")]
        usable = slice(start, start + file.rows - len(left_out))
        start = usable.stop
        counts = ", ".join(f"{name} {rows:,}" for name, rows in file.formats.items())
        mixed = f" ({counts})" if len(file.formats) > 1 else ""
        yield f"{file.name}: {file.rows:,} rows, format {file.format}{mixed}"
        if file.used:
            yield f"  fields that are used: {', '.join(file.used)}"
        if file.unused:
            yield f"  {unused_fields(file)}"
        tokens = int(pool.examples.tokens[usable].sum())
        if tokens:
            trained = int(pool.examples.trained_tokens[usable].sum())
            yield f"  tokens: {tokens:,}, of which {trained:,} are trained ({trained / tokens:.0%})"
        if file.untrained:
            yield f"  {untrained_turns(file)}"
        for reason, count in _kinds(left_out):
            yield f"  left out, {count:,} rows: {reason}"


def _kinds(rejected: Sequence["Rejection"]) -> list[tuple[str, int]]:
    """Kinds of reasons, most frequent first, and how many rows each has; numbers do not make a kind."""
    kinds = Counter(re.sub(r"message \d+|entry \d+|\d[\d,]*", "…", row.reason) for row in rejected)
    return kinds.most_common(_KINDS)


def _marked(pieces: Sequence[tuple[str, bool]], colour: bool) -> Text:
    """Trained text in green on a terminal, between ⟦ ⟧ elsewhere."""
    text = Text()
    for piece, trained in pieces:
        shown = printable(piece)
        if not trained:
            text.append(shown, style="dim")
        else:
            text.append(shown if colour else f"⟦{shown}⟧", style="green")
    return text


def _print_lengths(console: Console, label: str, lengths: Sequence[int]) -> None:
    ordered = sorted(lengths)
    figures = "  ".join(f"{q}%: {ordered[min(len(ordered) - 1, q * len(ordered) // 100)]:,}" for q in QUANTILES)
    console.print(f"{label:<16}mean {statistics.fmean(lengths):,.1f}   {figures}", soft_wrap=True)
