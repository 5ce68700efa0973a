"""The figures of a study: held-out loss by cell, against tokens, against cost, and on a target against others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spice_select.files.atomic import replacing
from spice_select.study.cost_table import CostLine
from spice_select.study.table import CellLine
from spice_select.study.target_table import TargetLine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3
_PANEL = (3.6, 3.2)  # inches


def draw(table: Sequence[CellLine], baseline: str, directory: Path) -> None:
    """Write `loss.svg` (the best cell on top) and `tokens.svg` (lower left is better); equal tables, equal bytes.

    Of an empty table there are none.
    """
    from matplotlib.figure import Figure

    if not table:
        return
    by_cell = Figure(figsize=(7, 0.6 + 0.3 * len(table)), layout="constrained")
    by_tokens = Figure(figsize=(7, 4.5), layout="constrained")
    rows, plane = by_cell.subplots(), by_tokens.subplots()
    ordered = sorted(table, key=lambda line: -line.macro.mean)
    for height, line in enumerate(ordered):
        color = "black" if line.cell == baseline else "tab:blue"
        rows.errorbar(line.macro.mean, height, xerr=line.macro.half or 0.0, fmt="o", color=color, capsize=3)
        _point(plane, line.tokens, line.macro.mean, line.cell, baseline)
        if line.cell == baseline:
            rows.axvline(line.macro.mean, color="grey", linewidth=1, linestyle=":")
    rows.set(xlabel="held-out macro loss (nats a token), mean over seeds with 95 % interval")
    rows.set_yticks(range(len(ordered)), [line.cell for line in ordered])
    plane.set(xscale="log", xlabel="trained tokens in the subset", ylabel="held-out macro loss (nats a token)")
    ranks = ", ".join(f"{line.cell} {line.macro.mean:.4f}" for line in reversed(ordered))
    _save(by_cell, directory / "loss.svg", f"Held-out macro loss by cell, lowest first: {ranks}.")
    tokens = ", ".join(f"{line.cell} {line.tokens:,.0f}" for line in reversed(ordered))
    _save(by_tokens, directory / "tokens.svg", f"Held-out macro loss against trained tokens, lowest first: {tokens}.")


def draw_costs(table: Sequence[CellLine], costs: Sequence[CostLine], baseline: str, directory: Path) -> None:
    """Write `cost.svg`, the loss against the break-even of each cell where that is known; lower left is better."""
    from matplotlib.figure import Figure

    known = {line.cell: line.break_even for line in costs if line.break_even}
    shown = [line for line in table if line.cell in known]
    if not shown:
        return
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    plane = figure.subplots()
    for line in shown:
        _point(plane, known[line.cell], line.macro.mean, line.cell, baseline)
    title = f"choice and fine-tuning take as long as fine-tuning on so many rows of {baseline}"
    plane.set(xscale="log", xlabel=title, ylabel="held-out macro loss (nats a token)")
    words = ", ".join(
        f"{line.cell} {known[line.cell]:,.0f}" for line in sorted(shown, key=lambda line: line.macro.mean)
    )
    _save(figure, directory / "cost.svg", f"Held-out macro loss against rows of {baseline}, lowest first: {words}.")


def draw_targets(tables: Mapping[str, Sequence[TargetLine]], baseline: str, directory: Path) -> None:
    """Write `targets.svg`: a panel for each target, its loss against that of the other sources; lower left is better.

    A target without other sources has no panel; without panels there is no figure.
    """
    from matplotlib.figure import Figure

    panels = {name: shown for name, table in tables.items() if (shown := [line for line in table if line.others])}
    if not panels:
        return
    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    said: list[str] = []
    for axes, (name, table) in zip(grid, panels.items(), strict=False):
        middle = sum(line.loss.mean for line in table) / len(table)
        for line in table:
            assert line.others is not None
            _point(axes, line.loss.mean, line.others.mean, line.cell, baseline, left=line.loss.mean > middle)
            if line.cell == baseline:
                axes.axvline(line.loss.mean, color="grey", linewidth=1, linestyle=":")
                axes.axhline(line.others.mean, color="grey", linewidth=1, linestyle=":")
        axes.set_title(name, fontsize=10)
        axes.margins(0.2)
        axes.tick_params(labelsize=8)
        best = min(table, key=lambda line: line.loss.mean)
        said.append(f"{name}: lowest on the target is {best.cell}, {best.loss.mean:.4f}")
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("loss on the target (nats a token)", fontsize=10)
    figure.supylabel("loss on the others (nats a token)", fontsize=10)
    words = f"Loss on the target against loss on the other sources, a panel for each target. {'; '.join(said)}."
    _save(figure, directory / "targets.svg", words)


def _point(axes: Any, x: float, y: float, cell: str, baseline: str, *, left: bool = False) -> None:
    """A point with its cell's name on the right of it, or on the left."""
    axes.plot(x, y, "o", color="black" if cell == baseline else "tab:blue")
    side = {"xytext": (-4, 3), "ha": "right"} if left else {"xytext": (4, 3)}
    axes.annotate(cell, (x, y), textcoords="offset points", fontsize=8, **side)


def _save(figure: "Figure", path: Path, alternative: str) -> None:
    """Write a figure as SVG, with what it shows in words."""
    import matplotlib

    metadata = {"Date": None, "Description": alternative}
    with matplotlib.rc_context({"svg.hashsalt": "spice-select"}), replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata=metadata)
