"""The summary that a run prints at its end."""

from datetime import timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spice_select.api.result import RunResult
from spice_select.cli.printable import printable
from spice_select.output.summary import Quality, Summary


def print_summary(result: RunResult, directory: str) -> None:
    """Print the rows and tokens kept by source, the figures of the choice, and where it is."""
    console = Console(highlight=False)
    console.print(_sources(result.summary))
    closing = f"{directory}/report.html explains the choice; README.md beside it says how to train on it."
    for line in [*(f"{label:<26}{value}" for label, value in _figures(result).items()), "", closing]:
        console.print(Text(line), soft_wrap=True)


def _sources(summary: Summary) -> Table:
    table = Table("source", box=None, pad_edge=False)
    for heading in ("rows", "kept", "%", "trained tokens", "kept", "%"):
        table.add_column(heading, justify="right")
    lines = [(s.source, (s.rows, s.kept, s.tokens, s.kept_tokens)) for s in summary.sources]
    if len(lines) > 1:
        rows, kept, tokens, kept_tokens = (sum(column) for column in zip(*(counts for _, counts in lines), strict=True))
        lines.append(("all", (rows, kept, tokens, kept_tokens)))
    for source, counts in lines:
        cells = [(f"{n:,}", f"{kept:,}", f"{100 * kept / n:.1f}" if n else "-") for n, kept in (counts[:2], counts[2:])]
        table.add_row(Text(printable(source)), *cells[0], *cells[1])
    return table


def _figures(result: RunResult) -> dict[str, str]:
    summary, seconds = result.summary, sum(result.seconds.values())
    stops = ""
    if result.config.stop_ratio is not None:
        stops = f" (cap {summary.budget:,}; {summary.early_stops:,} of {len(result.records):,} pools stopped early)"
    figures = {
        "rows kept": f"{summary.kept:,} of {summary.rows:,}{stops}",
        "median response": f"{summary.kept_median_tokens:g} tokens in the picks, {summary.median_tokens:g} in the pool",
    }
    if summary.not_finite:
        why = "their loss or gradient is not finite: column problem of scores.parquet"
        figures["rows not choosable"] = f"{summary.not_finite:,}; {why}"
    if summary.quality is not None:
        figures |= _quality(summary.quality)
    parts = ", ".join(f"{stage} {spent / seconds:.1%}" for stage, spent in result.seconds.items() if spent >= 0.05)
    return {**figures, "time": str(timedelta(seconds=int(seconds))) + (f" ({parts})" if parts else "")}


def _quality(quality: Quality) -> dict[str, str]:
    by_chance = quality.random_information
    ratio = f", {quality.information / by_chance:.2f} times as much" if by_chance > 0 else ""
    best, lowest = f"{quality.certificate:.1%}", f"{quality.lowest_certificate:.1%}"
    return {
        "among the largest norms": f"{quality.norm_overlap:.0%} of the picks",
        "information U": f"{quality.information:.2f} nats; random rows of the same number {by_chance:.2f}{ratio}",
        "mean conflict": f"{quality.mean_conflict:.4f}",
        "certificate": f"at least {best} of the best possible U (lowest pool {lowest})",
    }
