"""Figures drawn by matplotlib, as files and as images for a page, and the parts that several figures share.

Contract: the same plot gives the same bytes, whatever the user's settings of matplotlib, which stay as they are. Series
differ by line style and marker, or by hatching, never by colour alone.
"""

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spice_select.files.atomic import write_bytes
from spice_select.report.content import Curve

_LONGEST_NAME = 30
_ALL_MARKERS = 24  # of more picks, only some have a marker
_LOG_STEPS = 200  # more picks than this need a logarithmic axis
_LOG_RANGE = 50  # as do gains that span more than this factor
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
_STYLES = ("-", "--", "-.", ":")
_LIGHT = ["tableau-colorblind10"]
_DARK = ["dark_background", dict.fromkeys(("axes.facecolor", "figure.facecolor"), "#171c23")]  # as in page.css
_SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "spice-select",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "figure.figsize": (4.8, 3.0),  # inches: narrow, so that the text stays readable on a phone
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure before it is drawn."""

    name: str  # of its files
    title: str
    alt: str  # what it shows, in words
    height: float  # inches
    draw: Callable[[Any], None]  # on empty axes


@dataclass(frozen=True, slots=True)
class PageImage:
    """A figure in a page: data URIs for light and for dark screens, and the text alternative."""

    light: str
    dark: str
    alt: str


def write_figures(plots: Sequence[Plot], directory: Path) -> list[Path]:
    """Write each figure as NAME.svg and NAME.png into `directory`; raises `OutputError` if that is impossible."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {directory / f"{plot.name}.{kind}": (plot, kind) for plot in plots for kind in ("svg", "png")}
    for path, (plot, kind) in paths.items():
        write_bytes(path, _drawn(plot, _LIGHT, format=kind, metadata={"Date" if kind == "svg" else "Software": None}))
    return list(paths)


def page_images(plots: Sequence[Plot]) -> dict[str, PageImage]:
    """The images of a page, by name: WebP, a third of the size of PNG."""

    def uri(plot: Plot, style: Sequence[Any]) -> str:
        content = _drawn(plot, style, format="webp", pil_kwargs={"lossless": True})
        return f"data:image/webp;base64,{base64.b64encode(content).decode()}"

    return {plot.name: PageImage(uri(plot, _LIGHT), uri(plot, _DARK), plot.alt) for plot in plots}


def _drawn(plot: Plot, style: Sequence[Any], **options: Any) -> bytes:
    from matplotlib import style as styles
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with styles.context(["default", *style, _SETTINGS]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # names may be in any script
        figure: Any = Figure(layout="constrained")
        figure.set_figheight(plot.height)
        plot.draw(figure.subplots())
        figure.suptitle(plot.title, x=0.02, ha="left", fontweight="bold")
        figure.savefig(buffer, dpi=180, **options)
    return buffer.getvalue()


def line(axes: Any, curve: Curve, place: int, label: str) -> None:
    """The mean by pick, in the colour, line style and marker number `place`."""
    every = 1 if len(curve.picks) <= _ALL_MARKERS else 0.1  # of the axes' size: evenly on logarithmic axes too
    style, marker = _STYLES[place % len(_STYLES)], _MARKERS[place % len(_MARKERS)]
    axes.plot(curve.picks, curve.mean, color=f"C{place}", linestyle=style, marker=marker, markevery=every, label=label)


def band(axes: Any, curve: Curve, place: int) -> None:
    """The range of the middle 80 % of the pools, where they differ."""
    if any(low < high for low, high in zip(curve.low, curve.high, strict=True)):
        label = "middle 80% of pools"
        axes.fill_between(curve.picks, curve.low, curve.high, color=f"C{place}", alpha=0.2, linewidth=0, label=label)


def curve_axes(axes: Any, curves: Sequence[Curve], quantity: str = "information (nats)") -> None:
    """Axes for quantities by pick: logarithmic for many picks, and for values over a wide range."""
    last = max(curve.picks[-1] for curve in curves)
    values = [value for curve in curves for value in (*curve.mean, *curve.low)]
    axes.set_xlabel("pick")
    axes.set_ylabel(quantity)
    if last == 1:
        axes.set_xlim(0, 2)
    if last > _LOG_STEPS:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    if min(values) > 0 and max(values) > _LOG_RANGE * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=min(0.0, *values), top=None if max(values) > 0 else 1.0)
    legend(axes)


def legend(axes: Any) -> None:
    """Above the axes, where nothing is drawn."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9, borderaxespad=0.3, columnspacing=1.2)


def bars(axes: Any, names: Sequence[str], values: Sequence[float], labels: Sequence[str], **style: Any) -> None:
    """Horizontal bars, the first on top; their labels stand right of the axes, where no line crosses them."""
    axes.barh(range(len(names)), values, 0.62, **style)
    for place, label in enumerate(labels):
        axes.text(1.02, place, label, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.set_yticks(range(len(names)), [short_name(name) for name in names], fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.04)
    axes.set_xlim(0, axes.get_xlim()[1] if axes.dataLim.x1 > 0 else 1)


def short_name(name: str) -> str:
    """A name without characters that XML forbids or a reader cannot see, and not too long."""
    shown = "".join(character if character.isprintable() else "�" for character in name)
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 1]}…"
