"""The figures of a study: held-out loss by cell, and against trained tokens."""

from collections.abc import Sequence
from pathlib import Path

from spice_select.files.atomic import replacing
from spice_select.study.table import CellLine


def draw(table: Sequence[CellLine], baseline: str, directory: Path) -> None:
    """Write `loss.svg` (the best cell on top) and `tokens.svg` (lower left is better); equal tables, equal bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    by_cell = Figure(figsize=(7, 0.6 + 0.3 * len(table)), layout="constrained")
    by_tokens = Figure(figsize=(7, 4.5), layout="constrained")
    rows, plane = by_cell.subplots(), by_tokens.subplots()
    ordered = sorted(table, key=lambda line: -line.macro.mean)
    for height, line in enumerate(ordered):
        color = "black" if line.cell == baseline else "tab:blue"
        rows.errorbar(line.macro.mean, height, xerr=line.macro.half or 0.0, fmt="o", color=color, capsize=3)
        plane.plot(line.tokens, line.macro.mean, "o", color=color)
        plane.annotate(line.cell, (line.tokens, line.macro.mean), (4, 3), textcoords="offset points", fontsize=8)
        if line.cell == baseline:
            rows.axvline(line.macro.mean, color="grey", linewidth=1, linestyle=":")
    rows.set(xlabel="held-out macro loss (nats a token), mean over seeds with 95 % interval")
    rows.set_yticks(range(len(ordered)), [line.cell for line in ordered])
    plane.set(xscale="log", xlabel="trained tokens in the subset", ylabel="held-out macro loss (nats a token)")
    for figure, name in ((by_cell, "loss.svg"), (by_tokens, "tokens.svg")):
        with matplotlib.rc_context({"svg.hashsalt": "spice-select"}), replacing(directory / name) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
