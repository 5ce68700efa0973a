"""Colours and settings of the report's figures.

Contract: a figure is drawn in a palette, either of colours or of marks that stand for the CSS variables of a page; the
settings are matplotlib's own defaults and a few of ours, whatever the user's are, and those are as before afterwards.
The colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Palette:
    """A colour for each role: `panel` is what lies behind, the last three tell quantities apart."""

    ink: str
    muted: str
    grid: str
    panel: str
    first: str
    second: str
    third: str


FILES = Palette("#1b1f24", "#57606a", "#d8dee4", "#ffffff", "#0072b2", "#d55e00", "#009e73")
MARKS = Palette("#010101", "#010102", "#010103", "#010104", "#010105", "#010106", "#010107")
VARIABLES = {
    MARKS.ink: "var(--ink)",
    MARKS.muted: "var(--muted)",
    MARKS.grid: "var(--grid)",
    MARKS.panel: "var(--panel)",
    MARKS.first: "var(--series-1)",
    MARKS.second: "var(--series-2)",
    MARKS.third: "var(--series-3)",
}


@contextmanager
def settings(colours: Palette) -> Generator[None]:
    """Matplotlib's own defaults with ours on top, for the time of the block."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # names may be in any script
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.hashsalt": "spice-select",
                "svg.fonttype": "none",
                "text.parse_math": False,  # a dollar in a name is a dollar
                "font.size": 10,
                "text.color": colours.ink,
                "axes.labelcolor": colours.ink,
                "axes.edgecolor": colours.muted,
                "axes.facecolor": "none",
                "axes.grid": True,
                "axes.axisbelow": True,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "figure.facecolor": colours.panel,
                "grid.color": colours.grid,
                "hatch.linewidth": 0.8,
                "legend.frameon": False,
                "lines.markersize": 4,
                "xtick.color": colours.muted,
                "xtick.labelcolor": colours.ink,
                "ytick.color": colours.muted,
                "ytick.labelcolor": colours.ink,
            }
        )
        yield
