"""What `spice-select evaluate` prints of what it measured."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from spice_select.cli.printable import printable

if TYPE_CHECKING:
    from spice_select.evaluation.bootstrap import Interval, PairedDifference
    from spice_select.evaluation.evaluate import Evaluation
    from spice_select.evaluation.heldout import HeldoutLoss
    from spice_select.evaluation.tasks.results import TaskResult


def loss_table(heldout: "HeldoutLoss") -> Table:
    """Losses by source, of all rows, and their macro mean."""
    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    for heading in ("rows", "trained tokens", "loss", "95 % interval", "per token"):
        table.add_column(heading, justify="right")
    for s in heldout.sources:
        cells = (f"{s.rows:,}", f"{s.trained_tokens:,}", f"{s.mean:.4f}", _shown(s.interval), f"{s.token_mean:.4f}")
        table.add_row(Text(printable(s.source)), *cells)
    rows, tokens = f"{len(heldout.rows):,}", f"{sum(s.trained_tokens for s in heldout.sources):,}"
    table.add_row("all rows", rows, tokens, f"{heldout.mean:.4f}")
    table.add_row("macro", "", "", f"{heldout.macro:.4f}", _shown(heldout.macro_interval), style="bold")
    return table


def task_table(results: "Sequence[TaskResult]") -> Table:
    """A line for each metric of each task."""
    table = Table(box=None, pad_edge=False)
    for heading in ("task", "metric"):
        table.add_column(heading)
    for heading in ("items", "value", "standard error"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for r in results:
        error = "-" if r.stderr is None else f"{r.stderr:.4f}"
        task, metric, note = (Text(printable(word)) for word in (r.task, r.metric, r.note))
        table.add_row(task, metric, f"{r.items:,}", f"{r.value:.4f}", error, note)
    return table


def verdict(first: "Evaluation", second: "Evaluation", difference: "PairedDifference") -> str:
    """Whether the rows tell the two checkpoints apart."""
    head = f"\nagainst {second.checkpoint}: macro {second.heldout.macro:.4f}, difference {difference.macro:+.4f}"
    if difference.interval is None:
        single = next(source.source for source in first.heldout.sources if source.rows == 1)
        why = f"source '{single}' has one row, and at least two are needed."
        return printable(f"{head}; no interval and no verdict: {why}")
    head = f"{head} (95 %: {_shown(difference.interval)}); the interval "
    if not difference.interval.excludes(0.0):
        return f"{head}includes zero: these rows do not tell the two apart."
    better = first if difference.macro < 0 else second
    return f"{head}excludes zero: {better.checkpoint} predicts these sources better."


def _shown(interval: "Interval | None") -> str:
    return f"{interval.low:.4f} to {interval.high:.4f}" if interval else "-"
