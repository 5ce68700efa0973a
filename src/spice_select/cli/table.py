"""What a run prints at its end."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spice_select.api.result import RunResult
from spice_select.cli.printable import printable
from spice_select.output.summary import Quality, Summary


def print_summary(result: RunResult, directory: str) -> None:
    """Rows and tokens kept by source, then the figures of the choice, then where it lies."""
    console = Console(highlight=False)
    console.print(_sources(result.summary))
    for label, value in _figures(result):
        console.print(Text(f"{label:<26}{value}"), soft_wrap=True)
    closing = f"{directory}/report.html shows why; README.md beside it says how to train on it."
    console.print(Text(f"\n{closing}"), soft_wrap=True)


def _sources(summary: Summary) -> Table:
    table = Table(title=None, box=None, pad_edge=False)
    table.add_column("source")
    for heading in ("rows", "kept", "%", "trained tokens", "kept", "%"):
        table.add_column(heading, justify="right")
    lines = [(s.source, s.rows, s.kept, s.tokens, s.kept_tokens) for s in summary.sources]
    if len(lines) > 1:
        totals = [sum(column) for column in zip(*(line[1:] for line in lines), strict=True)]
        lines.append(("all", totals[0], totals[1], totals[2], totals[3]))
    for source, rows, kept, tokens, kept_tokens in lines:
        table.add_row(
            Text(printable(source)), f"{rows:,}", f"{kept:,}", _percent(kept, rows), f"{tokens:,}", f"{kept_tokens:,}",
            _percent(kept_tokens, tokens),
        )  # fmt: skip
    return table


def _figures(result: RunResult) -> list[tuple[str, str]]:
    summary = result.summary
    figures = [("rows kept", f"{summary.kept:,} of {summary.rows:,}" + _stops(result))]
    figures.append(
        (
            "median response",
            f"{summary.kept_median_tokens:g} tokens in the picks, {summary.median_tokens:g} in the pool",
        )
    )
    if summary.not_finite:
        which = "their loss or gradient is not finite: column problem of scores.parquet"
        figures.append(("rows not choosable", f"{summary.not_finite:,}; {which}"))
    if summary.quality is not None:
        figures += _quality(summary.quality)
    seconds = sum(result.seconds.values())
    parts = ", ".join(f"{stage} {spent / seconds:.1%}" for stage, spent in result.seconds.items() if spent >= 0.05)
    figures.append(("time", f"{int(seconds) // 60}:{int(seconds) % 60:02d}" + (f" ({parts})" if parts else "")))
    return figures


def _stops(result: RunResult) -> str:
    summary = result.summary
    if result.config.stop_ratio is None:
        return ""
    return f" (cap {summary.budget:,}; {summary.early_stops:,} of {len(result.records):,} pools stopped early)"


def _quality(quality: Quality) -> list[tuple[str, str]]:
    by_chance = quality.random_information
    ratio = f", {quality.information / by_chance:.2f} times as much" if by_chance > 0 else ""
    return [
        ("among the largest norms", f"{quality.norm_overlap:.0%} of the picks"),
        ("information U", f"{quality.information:.2f} nats; random rows of the same number {by_chance:.2f}{ratio}"),
        ("mean conflict", f"{quality.mean_conflict:.4f}"),
        (
            "certificate",
            f"at least {quality.certificate:.1%} of the best possible U (lowest pool {quality.lowest_certificate:.1%})",
        ),
    ]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"
