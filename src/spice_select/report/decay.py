"""How the gain falls from pick to pick: of one selection, on axes of one's own, and of several side by side."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spice_select.choices import PoolRecord
from spice_select.errors import ConfigError
from spice_select.report.comparison import Comparison
from spice_select.report.content import Curve
from spice_select.report.drawing import band, legend, line, numbers, save, scale_steps, short_name
from spice_select.report.palette import FILES, MARKS, VARIABLES, Palette, settings
from spice_select.report.svg import inline
from spice_select.report.theory import curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "What each pick adds, on the same gradients"
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


def plot_decay(records: Sequence[PoolRecord], axes: "Axes | None" = None) -> "Axes":
    """Draw mean gain and base by pick over candidate pools, with the middle 80 % of the pools' gains as a band.

    Args:
        records: of a selection.
        axes: where to draw; None makes a figure (`axes.figure`) that no window shows.

    Raises:
        ConfigError: no gradient was computed.

    """
    from matplotlib.figure import Figure

    measured = [(record.picks, record.measures) for record in records if record.measures is not None and record.picks]
    if not measured:
        raise ConfigError("there is no gain to plot: this method computes no gradients.")
    gain = curve([[measures.gain[place] for place in picks] for picks, measures in measured])
    base = curve([[measures.base[place] for place in picks] for picks, measures in measured])
    drawn = axes if axes is not None else Figure(layout="constrained").subplots()
    line(drawn, base, FILES.second, "--", "s", "base, without other picks")
    line(drawn, gain, FILES.first, "-", "o", "gain, at its pick")
    band(drawn, gain, FILES.first)
    _finish(drawn, [gain])
    return drawn


def draw_decays(comparison: Comparison, directory: Path) -> list[Path]:
    """Write decay.svg and decay.png into `directory`, which exists; nothing where no run has gains."""
    with settings(FILES):
        figure = _figure(comparison, FILES)
        if figure is None:
            return []
        figure.suptitle(TITLE, x=0.02, ha="left", fontweight="bold")
        svg = save(figure, directory / "decay.svg", format="svg", metadata={"Date": None})
        return [svg, save(figure, directory / "decay.png", format="png", dpi=150)]


def inline_decays(comparison: Comparison) -> str | None:
    """The same as SVG text of a page; None where there is nothing to draw."""
    with settings(MARKS):
        figure = _figure(comparison, MARKS)
        if figure is None:
            return None
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
        return inline(buffer.getvalue(), "decay", TITLE, VARIABLES)


def _figure(comparison: Comparison, colours: Palette) -> Any:
    """A line for each contender, told apart by colour, style and marker."""
    from matplotlib.figure import Figure

    lines = [(contender.name, contender.gain) for contender in comparison.contenders if contender.gain is not None]
    if not lines:
        return None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes: Any = figure.subplots()
    series = (colours.first, colours.second, colours.third)
    for place, (name, gain) in enumerate(lines):
        style, marker = _STYLES[place % len(_STYLES)], _MARKERS[place % len(_MARKERS)]
        line(axes, gain, series[place % len(series)], style, marker, short_name(name))
    _finish(axes, [gain for _, gain in lines])
    return figure


def _finish(axes: Any, curves: Sequence[Curve]) -> None:
    scale_steps(axes, max((numbers(one) for one in curves), key=len))
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("gain (nats)")
    legend(axes)
