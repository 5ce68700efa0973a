"""The figures of a study: held-out loss by cell, and against trained tokens."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spice_select.files.atomic import replacing
from spice_select.study.table import Line


def draw(table: Sequence[Line], baseline: str, directory: Path) -> list[Path]:
    """Write `loss.svg` and `tokens.svg` into `directory`."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "spice-select"  # the same study gives the same bytes
    directory.mkdir(parents=True, exist_ok=True)
    by_cell = Figure(figsize=(7, 0.6 + 0.3 * len(table)), layout="constrained")
    _losses(by_cell.subplots(), table, baseline)
    by_tokens = Figure(figsize=(7, 4.5), layout="constrained")
    _tokens(by_tokens.subplots(), table, baseline)
    return [_save(by_cell, directory / "loss.svg"), _save(by_tokens, directory / "tokens.svg")]


def _losses(axes: Any, table: Sequence[Line], baseline: str) -> None:
    """One row a cell, best on top, with the interval over seeds; the baseline as a line."""
    ordered = sorted(table, key=lambda line: -line.macro.mean)
    for height, line in enumerate(ordered):
        half = line.macro.half if math.isfinite(line.macro.half) else 0.0
        axes.errorbar(line.macro.mean, height, xerr=half, fmt="o", color=_colour(line, baseline), capsize=3)
    for line in table:
        if line.cell == baseline:
            axes.axvline(line.macro.mean, color="grey", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(ordered)), [line.cell for line in ordered])
    axes.set_xlabel("held-out macro loss (nats a token), mean over seeds with 95 % interval")


def _tokens(axes: Any, table: Sequence[Line], baseline: str) -> None:
    """Loss against trained tokens: lower left is better."""
    for line in table:
        axes.plot(line.tokens, line.macro.mean, "o", color=_colour(line, baseline))
        axes.annotate(line.cell, (line.tokens, line.macro.mean), (4, 3), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("trained tokens in the subset")
    axes.set_ylabel("held-out macro loss (nats a token)")


def _colour(line: Line, baseline: str) -> str:
    return "black" if line.cell == baseline else "tab:blue"


def _save(figure: Any, path: Path) -> Path:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    return path
