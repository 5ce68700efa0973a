"""Parts of figures that several draw: lines over picks with their bands, axes, legends, files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spice_select.files.atomic import replacing
from spice_select.report.content import Curve

_LONGEST_NAME = 30
_ALL_MARKERS = 24  # with more picks than this, only some have a marker
_LOG_STEPS = 200  # more picks than this need a logarithmic axis


def line(axes: Any, curve: Curve, colour: str, style: str, marker: str, label: str) -> None:
    """The mean over the numbers of the picks."""
    x = numbers(curve)
    every = 1 if len(x) <= _ALL_MARKERS else 0.1  # of the axes' size: evenly also where they are logarithmic
    axes.plot(x, curve.mean, color=colour, linestyle=style, marker=marker, markevery=every, linewidth=1.8, label=label)


def band(axes: Any, curve: Curve, colour: str) -> None:
    """What the middle 80 % of the pools do, where they differ."""
    if any(low < high for low, high in zip(curve.low, curve.high, strict=True)):
        label = "middle 80% of pools"
        axes.fill_between(numbers(curve), curve.low, curve.high, color=colour, alpha=0.2, linewidth=0, label=label)


def numbers(curve: Curve) -> list[int]:
    """Numbers of the picks, from 1: the axis may be logarithmic."""
    return [step + 1 for step in curve.steps]


def scale_steps(axes: Any, x: Sequence[int]) -> None:
    """An axis for numbers of picks, logarithmic where there are many."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("pick")
    if len(x) == 1:
        axes.set_xlim(x[0] - 1, x[0] + 1)
    if x[-1] > _LOG_STEPS:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def short_name(name: str) -> str:
    """A name without what XML refuses or a reader cannot see, and not too long."""
    shown = "".join(character if character.isprintable() else "�" for character in name)
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 1]}…"


def legend(axes: Any) -> None:
    """Above the axes, where nothing is drawn."""
    spaces = {"handlelength": 2.2, "borderaxespad": 0.3, "columnspacing": 1.2}
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9, **spaces)


def save(figure: Any, path: Path, **options: Any) -> Path:
    """Write a figure whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, **options)
    return path
