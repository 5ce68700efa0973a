"""The figures of a report, as files and as SVG text for its page.

Contract: the same report gives the same bytes, whatever the user's own settings of matplotlib, which stay as they are.
A figure whose numbers are missing, or that would compare one thing with nothing, is left out. Lines differ by style and
marker and bars by hatching, never by colour alone.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spice_select.report.content import Composition, Report, Rival, Share, Theory
from spice_select.report.drawing import band, legend, line, numbers, save, scale_steps, short_name
from spice_select.report.palette import FILES, MARKS, VARIABLES, Palette, settings
from spice_select.report.svg import inline

_WIDTH = 4.8  # inches: narrow, so that the text is still readable where a phone shrinks the figure
_MOST_SOURCES = 12
_LOG_RANGE = 50  # as does a quantity that spans more than this factor


@dataclass(frozen=True, slots=True)
class _Plot:
    name: str
    title: str
    height: float
    draw: Callable[[Any, Palette], None]


def draw(report: Report, directory: Path) -> list[Path]:
    """Write each figure as NAME.svg and NAME.png into `directory`, which is made if need be.

    Raises:
        OutputError: the directory cannot be written to.

    """
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with settings(FILES):
        for plot in _plots(report):
            figure = _figure(plot, FILES)
            figure.suptitle(plot.title, x=0.02, ha="left", fontweight="bold")
            written.append(save(figure, directory / f"{plot.name}.svg", format="svg", metadata={"Date": None}))
            written.append(save(figure, directory / f"{plot.name}.png", format="png", dpi=150))
    return written


def inline_svg(report: Report) -> dict[str, str]:
    """SVG text of each figure, to stand in an HTML page that defines the colours as CSS variables."""
    texts: dict[str, str] = {}
    with settings(MARKS):
        for plot in _plots(report):
            buffer = io.StringIO()
            _figure(plot, MARKS).savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
            texts[plot.name] = inline(buffer.getvalue(), plot.name, plot.title, VARIABLES)
    return texts


def _plots(report: Report) -> list[_Plot]:
    plots: list[_Plot] = []
    theory, parts = report.theory, report.composition
    if theory is not None and theory.gain.steps:
        plots.append(_Plot("gain", "What each pick adds", 3.5, partial(_gain, theory)))
    if theory is not None and theory.conflict.steps:
        plots.append(_Plot("conflict", "How far each pick opposes those before it", 3.0, partial(_conflict, theory)))
    if theory is not None and theory.rivals:
        height = 1.1 + 0.4 * (1 + len(theory.rivals))
        plots.append(_Plot("information", "Information against other choices", height, partial(_information, theory)))
    if len(parts.lengths) > 1:
        height = 1.3 + 0.28 * len(parts.lengths)
        plots.append(_Plot("lengths", "Share kept, by length of the answer", height, partial(_lengths, parts)))
    if len(parts.sources) > 1:
        shown = _largest(parts.sources)
        height = 1.3 + 0.3 * len(shown)
        plots.append(_Plot("sources", "Share of the pool and of the picks", height, partial(_sources, shown)))
    return plots


def _figure(plot: _Plot, colours: Palette) -> Any:
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(_WIDTH, plot.height), layout="constrained")
    plot.draw(figure.subplots(), colours)
    return figure


def _gain(theory: Theory, axes: Any, colours: Palette) -> None:
    """Gain with its band, base above it; what lies between is epsilon."""
    gain, base = theory.gain, theory.base
    x = numbers(gain)
    line(axes, gain, colours.first, "-", "o", "gain, at its pick")
    line(axes, base, colours.second, "--", "s", "base, without other picks")
    between: dict[str, Any] = {"facecolor": "none", "edgecolor": colours.muted, "hatch": "\\\\\\", "linewidth": 0}
    axes.fill_between(x, gain.mean, base.mean, label="epsilon = gain − base", **between)
    band(axes, gain, colours.first)
    if theory.half_life is not None:
        label = f"half-life: {theory.half_life:,.4g} picks"
        axes.axvline(theory.half_life + 1, color=colours.third, linestyle=":", linewidth=1.8, label=label)
    scale_steps(axes, x)
    values = [*gain.mean, *gain.low, *base.mean]
    if min(values) > 0 and max(values) > _LOG_RANGE * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=min(0.0, *values), top=None if max(values) > 0 else 1.0)
        _name_epsilon(axes, theory, colours)
    axes.set_ylabel("information (nats)")
    legend(axes)


def _name_epsilon(axes: Any, theory: Theory, colours: Palette) -> None:
    """Write epsilon into its area, where that is high enough for the word."""
    gaps = [base - gain for base, gain in zip(theory.base.mean, theory.gain.mean, strict=True)]
    place = max(range(len(gaps)), key=lambda at: gaps[at] * (at < 0.9 * len(gaps)))
    bottom, top = axes.get_ylim()
    if gaps[place] > 0.15 * (top - bottom):
        middle = theory.gain.mean[place] + gaps[place] / 2
        _on_panel(axes.text(theory.gain.steps[place] + 1, middle, "epsilon", ha="center", va="center"), colours)


def _conflict(theory: Theory, axes: Any, colours: Palette) -> None:
    curve = theory.conflict
    line(axes, curve, colours.second, "-", "D", _mean_of(theory.pools))
    band(axes, curve, colours.second)
    scale_steps(axes, numbers(curve))
    axes.set_ylim(0.0, max(0.01, 1.1 * max(*curve.high, *curve.mean)))
    axes.set_ylabel("conflict (0 none, 1 opposite)")
    legend(axes)


def _information(theory: Theory, axes: Any, colours: Palette) -> None:
    """A bar for the picks and one for each rival, with the range of draws where there are several."""
    picks = Rival("these picks", theory.compared, theory.compared, theory.compared)
    bars = [picks, *theory.rivals]
    fills = [colours.first, *[colours.panel] * len(theory.rivals)]
    edges = [colours.first, *[colours.second] * len(theory.rivals)]
    drawn = axes.barh(range(len(bars)), [bar.information for bar in bars], 0.62, color=fills, edgecolor=edges)
    for patch in drawn.patches[1:]:
        patch.set_hatch("///")
    for height, bar in enumerate(bars):
        if bar.low < bar.high:
            around = [[bar.information - bar.low], [bar.high - bar.information]]
            axes.errorbar(bar.information, height, xerr=around, fmt="none", ecolor=colours.ink, capsize=4)
        _beside(axes, max(bar.information, bar.high), height, f"{bar.information:,.4g}", colours)
    _names(axes, [bar.name for bar in bars])
    axes.set_xlabel("information U (nats)")


def _lengths(parts: Composition, axes: Any, colours: Palette) -> None:
    shares = [_percent(part.kept, part.rows) for part in parts.lengths]
    axes.barh(range(len(shares)), shares, 0.62, color=colours.first)
    for height, share in enumerate(shares):
        _beside(axes, share, height, f"{share:.1f}%", colours)
    whole = _percent(sum(part.kept for part in parts.lengths), sum(part.rows for part in parts.lengths))
    label = f"of all rows: {whole:.1f}%"
    axes.axvline(whole, color=colours.ink, linestyle="--", linewidth=1.4, label=label)
    _names(axes, [part.name for part in parts.lengths])
    axes.set_xlabel("share kept (%)")
    axes.set_ylabel("trained tokens")
    legend(axes)


def _sources(shown: Sequence[Share], axes: Any, colours: Palette) -> None:
    """Two markers a source, joined: where the right one is the picks', the source is kept more often."""
    rows, kept = sum(part.rows for part in shown), sum(part.kept for part in shown)
    pool = [_percent(part.rows, rows) for part in shown]
    picks = [_percent(part.kept, kept) for part in shown]
    heights = range(len(shown))
    axes.hlines(heights, pool, picks, color=colours.muted, linewidth=1.4)
    axes.plot(
        pool, heights, "o", color=colours.second, mfc=colours.panel, ms=8, mew=1.8, clip_on=False, label="of the pool"
    )
    axes.plot(picks, heights, "D", color=colours.first, ms=6, clip_on=False, label="of the picks")
    _names(axes, [part.name for part in shown])
    axes.set_xlabel("share of rows (%)")
    legend(axes)


def _largest(sources: Sequence[Share]) -> list[Share]:
    """The largest sources, as they were ordered, and one line for all others."""
    by_rows = sorted(sources, key=lambda part: (-part.rows, part.name))
    large, small = by_rows[:_MOST_SOURCES], by_rows[_MOST_SOURCES:]
    shown = [part for part in sources if part in large]
    if not small:
        return shown
    rows, kept = sum(part.rows for part in small), sum(part.kept for part in small)
    tokens, kept_tokens = sum(part.tokens for part in small), sum(part.kept_tokens for part in small)
    return [*shown, Share(f"{len(small):,} other sources", rows, kept, tokens, kept_tokens)]


def _mean_of(pools: int) -> str:
    return f"mean of {pools:,} candidate pools" if pools > 1 else "the candidate pool"


def _names(axes: Any, names: Sequence[str]) -> None:
    """Names at the bars, first on top."""
    axes.set_yticks(range(len(names)), [short_name(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, pad=8, labelsize=10 if max(map(len, names)) <= 20 else 9)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.14)
    right = axes.get_xlim()[1]
    axes.set_xlim(0, right if axes.dataLim.x1 > 0 else 1)


def _beside(axes: Any, x: float, height: float, text: str, colours: Palette) -> None:
    drawn = axes.annotate(text, (x, height), (5, 0), textcoords="offset points", va="center", fontsize=9)
    _on_panel(drawn, colours)


def _on_panel(text: Any, colours: Palette) -> None:
    """Keep lines and hatching away from a text."""
    text.set_bbox({"facecolor": colours.panel, "edgecolor": "none", "pad": 1.2})


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
