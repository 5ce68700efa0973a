"""`spice-select compare`: several runs on the same pool, side by side."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from spice_select.cli.printable import printable
from spice_select.cli.table import plain_table
from spice_select.errors import OutputError

if TYPE_CHECKING:
    from spice_select.report.content import Comparison

EPILOG = """\b
Examples:
  spice-select run pool.jsonl --method random --output random
  spice-select run pool.jsonl --output spice
  spice-select compare spice random --output comparison
"""


@click.command("compare", epilog=EPILOG)
@click.argument("directories", nargs=-1, required=True, metavar="DIR...")
@click.option("--output", metavar="DIR", help="Also write comparison.html, decay.svg and decay.png there.")
def compare_command(directories: tuple[str, ...], output: str | None) -> None:
    """Compare the choices of several runs on the same pool: one table, and with --output one page.

    All runs are measured on the gradients or states of the first DIR that has any.
    """
    from spice_select.report.compare import compare, write

    if output is not None and Path(output).exists() and not Path(output).is_dir():
        raise OutputError(f"{output}: is a file; choose another --output.")
    found = compare([Path(directory) for directory in directories])
    console = Console(highlight=False)
    console.print(_measures(found))
    console.print(_shared(found))
    for note in found.notes:
        click.echo(printable(f"note: {note}"))
    if found.measured_by is not None:
        click.echo(printable(f"measured on the {found.noun}s of {found.measured_by}"))
    if output is not None:
        click.echo(", ".join(map(str, write(found, Path(output)))))


def _measures(comparison: "Comparison") -> Table:
    rows: list[tuple[str, ...]] = []
    for run in comparison.runs:
        u, by_chance, conflict = run.information, run.random_information, run.conflict
        counts = (f"{run.rows:,}", f"{run.tokens:,}", f"{run.median_tokens:g}")
        times = f"{u / by_chance:.2f}" if u is not None and by_chance else "-"
        measured = ("-" if u is None else f"{u:.2f}", times, "-" if conflict is None else f"{conflict:.4f}")
        rows.append((run.name, run.method, *counts, *measured))
    return plain_table(["run", "method", "rows", "tokens", "median", "U (nats)", "times random", "conflict"], rows)


def _shared(comparison: "Comparison") -> Table:
    headings = ["\nrows in common with", *(f"\n{run.name}" for run in comparison.runs)]
    return plain_table(headings, [(run.name, *(f"{count:,}" for count in run.shared)) for run in comparison.runs])
