"""Tables on the terminal, and the summary that a run prints at its end."""

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from spice_select.amounts import parse_share
from spice_select.cli.printable import printable
from spice_select.option_values import NOUNS, TARGETED

if TYPE_CHECKING:
    from spice_select.api.result import RunResult
    from spice_select.choices import TargetCoverage
    from spice_select.output.summary import Quality, Summary


def plain_table(headings: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[int] = (0,)) -> Table:
    """A table without lines; the columns with the numbers `words` hold text, all others align to the right."""
    columns = (
        Column(Text(printable(heading)), justify="left" if place in words else "right")
        for place, heading in enumerate(headings)
    )
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def print_summary(result: "RunResult", directory: str) -> None:
    """Print the rows and tokens kept by source, the figures of the choice, and where it is."""
    console = Console(highlight=False)
    console.print(_sources(result.summary))
    closing = f"{directory}/report.html explains the choice; README.md beside it says how to train on it."
    for line in [*(f"{label:<26}{value}" for label, value in _figures(result).items()), "", closing]:
        console.print(Text(line), soft_wrap=True)


_SOURCES = 20  # most sources in the table; the others are one line


def _sources(summary: "Summary") -> Table:
    named = [(s.source, (s.rows, s.kept, s.tokens, s.kept_tokens)) for s in summary.sources]
    lines, rest = named, list[tuple[str, tuple[int, int, int, int]]]()
    if len(named) > _SOURCES + 1:
        largest = sorted(named, key=lambda line: -line[1][0])[:_SOURCES]
        lines, rest = [line for line in named if line in largest], [line for line in named if line not in largest]
        lines.append((f"{len(rest):,} others", _total(rest)))
    if len(named) > 1:
        lines = [*lines, ("all", _total(named))]
    cells: list[list[str]] = []
    for source, counts in lines:
        shares = [(f"{n:,}", f"{kept:,}", f"{100 * kept / n:.1f}") for n, kept in (counts[:2], counts[2:])]
        cells.append([source, *shares[0], *shares[1]])
    return plain_table(["source", "rows", "kept", "%", "trained tokens", "kept", "%"], cells)


def _total(lines: Sequence[tuple[str, tuple[int, int, int, int]]]) -> tuple[int, int, int, int]:
    rows, kept, tokens, kept_tokens = (sum(column) for column in zip(*(counts for _, counts in lines), strict=True))
    return rows, kept, tokens, kept_tokens


def _figures(result: "RunResult") -> dict[str, str]:
    summary, seconds = result.summary, sum(result.seconds.values())
    stops = ""
    if result.config.stop_coverage is not None and summary.coverage is not None:
        share, covered = result.config.stop_coverage, summary.coverage
        enough = covered.picks >= parse_share(share) * covered.whole
        stops = f" ({'they' if enough else 'too few to'} cover {share} of what the whole pool does)"
    elif result.config.stop_ratio is not None:
        stops = f" (cap {summary.budget:,}; {summary.early_stops:,} of {len(result.records):,} pools stopped early)"
    figures = {
        "rows kept": f"{summary.kept:,} of {summary.rows:,}{stops}",
        "median response": f"{summary.kept_median_tokens:g} tokens in the picks, {summary.median_tokens:g} in the pool",
    }
    if summary.not_finite:
        why = f"their loss or {NOUNS[result.config.features]} is not finite: column problem of scores.parquet"
        figures["rows not choosable"] = f"{summary.not_finite:,}; {why}"
    if summary.leaks:
        figures["rows left out"] = (
            f"{summary.leaks:,}, because they equal a target row: column problem of scores.parquet"
        )
    if summary.coverage is not None:
        if result.config.method in TARGETED:
            figures["method"] = (
                f"{result.config.method}; the figures below measure its picks, no guarantee holds for them"
            )
        figures |= _coverage(summary.coverage)
    if summary.quality is not None:
        size = "as many random rows" if result.config.budget_tokens is None else "random rows of as many tokens"
        figures |= _quality(summary.quality, size, directed=summary.coverage is not None)
    for label, doubts, advice in (
        ("oppose the target", summary.opposed, "read them"),
        ("loss stays high", summary.high_loss, "read them, an answer may be wrong"),
    ):
        if doubts is not None and doubts.count:
            named = printable(", ".join(doubts.first)) + (", ..." if doubts.count > len(doubts.first) else "")
            figures[label] = f"{doubts.count:,} of {summary.kept:,} picks ({named}): {advice}"
    figures |= _held_out(summary.kept, result.config.eval_share, result.config.seed)
    parts = ", ".join(f"{stage} {spent / seconds:.1%}" for stage, spent in result.seconds.items() if spent >= 0.05)
    return {**figures, "time": str(timedelta(seconds=int(seconds))) + (f" ({parts})" if parts else "")}


def _held_out(kept: int, share: str | None, seed: int) -> dict[str, str]:
    from spice_select.output.trainers import held_out  # here, since --help of a command must not import torch

    count = len(held_out(kept, share, seed))
    return {"held out": f"{count:,} of {kept:,} picks, for evaluation: eval.parquet"} if share is not None else {}


def _coverage(coverage: "TargetCoverage") -> dict[str, str]:
    rows = f"{coverage.rows:,} target row{'s' if coverage.rows > 1 else ''}"
    figures = {
        "coverage of the target": f"{coverage.picks:.1%} by the picks, {coverage.whole:.1%} by the whole pool, "
        f"{coverage.random:.1%} by random rows (mean of {rows})",
        "target explained": f"{coverage.certificate:.1%} of what the whole pool explains, "
        "which is the most that any choice can",
    }
    if not coverage.gains:
        beyond = max(coverage.whole - coverage.random, 1e-12)
        figures["note"] = (
            "this pool may hold little that is like the target: of what all of it covers beyond random rows, the picks "
            f"reach {(coverage.picks - coverage.random) / beyond:.0%}, so choosing by it may gain nothing"
        )
    return figures


def _quality(quality: "Quality", size: str, *, directed: bool) -> dict[str, str]:
    by_chance, everywhere = quality.random_information, quality.all_directions
    ratio = f", {quality.information / by_chance:.2f} times as much" if by_chance > 0 else ""
    best, lowest = f"{quality.certificate:.1%}", f"{quality.lowest_certificate:.1%}"
    where = " towards the target" if directed else "" if everywhere is None else " in the principal directions"
    figures = {
        "among the largest norms": f"{quality.norm_overlap:.0%} of the picks",
        "mean conflict": f"{quality.mean_conflict:.4f}",
        "information U": f"{quality.information:.2f} nats{where}; {size} {by_chance:.2f}{ratio}",
        "certificate": f"at least {best} of the best possible U{where} (lowest pool {lowest})",
    }
    if everywhere is not None and everywhere.information is not None:
        greedy = everywhere.greedy_information
        best_known = "" if greedy is None else f", greedy picks by gain alone {greedy:.2f}"
        by_chance = f"{everywhere.random_information:.2f}"
        figures["U in all directions"] = f"{everywhere.information:.2f} nats; random rows {by_chance}{best_known}"
    return figures
