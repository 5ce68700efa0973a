"""`spice-select report` and `audit`: what a finished run chose and why, and rows to check before training."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spice_select.cli.printable import printable

if TYPE_CHECKING:
    from spice_select.report.content import DuplicateGroup, Findings

NAMED = 8  # rows of a group that are named

REPORT_EPILOG = """\b
Examples:
  spice-select report chosen
  spice-select report chosen --embeddings vectors.npy      measure diversity on your own text embeddings too
"""
AUDIT_EPILOG = """\b
Examples:
  spice-select audit chosen
  spice-select audit chosen --limit 100 --same 0.8
  spice-select audit chosen --answers           also look for wrong answers: the run's model reads every row twice
  spice-select audit chosen --only duplicates --ids out.txt      then: spice-select run ... --exclude out.txt
"""


@click.command("report", epilog=REPORT_EPILOG)
@click.argument("directory", metavar="DIR")
@click.option(
    "--embeddings",
    metavar="FILE",
    help="NumPy file (.npy) with one vector for every usable row, in the order of scores.parquet.",
)
def report_command(directory: str, embeddings: str | None) -> None:
    """Explain the choice in DIR: write DIR/report.html, and its figures as PNG and SVG to DIR/figures.

    DIR is the output of run or pick, which also write a report when they finish. The page is a single file that needs
    no network. It shows how good the choice is, what was chosen, why each row was kept or not, and which rows to check
    before training.
    """
    from spice_select.cli.progress import progress_on
    from spice_select.report.build import build, write
    from spice_select.report.verdict import verdict_of

    place = Path(directory)
    with progress_on(sys.stderr) as progress:
        found = build(place, progress, None if embeddings is None else Path(embeddings))
        written = write(found, place)
    for label, value, explanation in found.facts:
        click.echo(printable(f"{label:<18}{value} ({explanation})"))
    for one in verdict_of(found):
        click.echo(printable(f"{one.text} {one.advice}".strip()))
    for note in found.notes:
        click.echo(printable(f"note: {note}"))
    click.echo(f"\n{written[0]}; figures in {place / 'figures'}/")


@click.command("audit", epilog=AUDIT_EPILOG)
@click.argument("directory", metavar="DIR")
@click.option("--limit", type=click.IntRange(1, 100), default=20, help="Maximum number of lines in each list.  [20]")
@click.option(
    "--same",
    type=click.FloatRange(min=0.0, max=1.0, min_open=True),
    help="Rows whose gradients or states have at least this cosine count as near-duplicates.  "
    "[0.65 of plain gradients, else 0.98]",
)
@click.option(
    "--answers",
    is_flag=True,
    help="Look for likely wrong answers: evaluate every answer with the run's model, once after its prompt and once "
    "alone. Takes about two thirds of the gradients' time. The losses stay in DIR for later audits and reports.",
)
@click.option("--trust-remote-code", is_flag=True, help="With --answers: allow the model's own Python code to run.")
@click.option(
    "--ids",
    metavar="FILE",
    help="Write the ids of all rows that are named, however many are printed, to FILE, one a line, as --exclude takes "
    "them: of near-duplicates all but one of each group, and rows opposed to the picks only with --only conflicts.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(["duplicates", "loss", "answers", "outliers", "conflicts"]),
    help="With --ids: write only rows that are named for this reason; all lists are printed. May be repeated.",
)
def audit_command(
    directory: str,
    limit: int,
    same: float | None,
    answers: bool,
    trust_remote_code: bool,
    ids: str | None,
    only: tuple[str, ...],
) -> None:
    """List rows of DIR's pool to check before training: near-duplicates, likely wrong answers, outliers, opposed rows.

    DIR is the output of run or pick. Duplicates are found among rows that were compared: all rows with --candidates all
    or pick, otherwise the rows of the same candidate pool.
    """
    from spice_select.cli.progress import progress_on
    from spice_select.errors import ConfigError
    from spice_select.files.atomic import write_text
    from spice_select.report.answers import measure_answers
    from spice_select.report.audit import REASONS, audit_of, named_rows
    from spice_select.report.finished_run import open_run

    _check_ids(ids, only)
    run = open_run(Path(directory))
    if answers:
        with progress_on(sys.stderr) as progress:
            measure_answers(run, progress, trust_remote_code=trust_remote_code)
    found = audit_of(run, same, whole=ids is not None)
    if found is None:
        method = run.config.method
        raise ConfigError(f"{directory}: method {method} computes no gradients, so there is nothing to audit.")
    for note in run.missing:
        click.echo(printable(f"note: {note}"))
    click.echo(printable(found.scope))
    unknown = f"not looked for, because no {run.noun}s are available to compare"
    if found.conflicts is None:
        click.echo(f"\nopposed to the picks: {unknown}")
    else:
        _print_list("opposed to the picks", found.conflicts.total, _described(found.conflicts), limit)
    if found.duplicates is None:
        click.echo("\nnear-duplicates: not looked for, because gradients, states or texts are missing")
    else:
        _print_list("groups of near-duplicates", found.groups, list(map(_named, found.duplicates)), limit)
    if found.doubtful is None:
        click.echo("\npicks whose loss stays high: not looked for, because no losses are known")
    else:
        _print_list("picks whose loss stays high", found.doubtful.total, _described(found.doubtful), limit)
    _print_list("outliers", found.outliers.total, _described(found.outliers), limit)
    if found.suspects is None:
        click.echo("\nlikely wrong answers: not looked for; give --answers to look for them")
    else:
        _print_list("likely wrong answers", found.suspects.total, _described(found.suspects), limit)
    if ids is not None:
        rows = named_rows(found, only or [reason for reason in REASONS if reason != "conflicts"])
        write_text(Path(ids), "".join(f"{line.id}\n" for line in rows))
        click.echo(f"\n{len(rows):,} ids: {printable(ids)}")


def _check_ids(ids: str | None, only: tuple[str, ...]) -> None:
    from spice_select.errors import ConfigError

    if ids is None and only:
        raise ConfigError("--only goes with --ids FILE: name the file that the ids are written to.")
    if ids is not None and Path(ids).exists():
        raise ConfigError(f"--ids {ids}: exists already; name a new file.")


def _named(group: "DuplicateGroup") -> str:
    more = f" and {group.size - NAMED:,} more" if group.size > NAMED else ""
    names = ", ".join(line.id for line in group.lines[:NAMED])
    return f"{group.size} rows, cosine {group.cosine:.3f} or more: {names}{more}"


def _described(findings: "Findings") -> list[str]:
    lines: list[str] = []
    for finding in findings.listed:
        others = f"; see {', '.join(other.id for other in finding.others)}" if finding.others else ""
        lines.append(f"{finding.line.id} ({finding.line.location}): {finding.reason}{others}")
    return lines


def _print_list(title: str, total: int, lines: list[str], limit: int) -> None:
    click.echo(f"\n{title}: {total:,}")
    for line in lines[:limit]:
        click.echo(printable(f"  {line}"))
    if total > (shown := min(limit, len(lines))):
        click.echo(f"  ... the first {shown} of {total:,}")
