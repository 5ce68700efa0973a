"""The figures of a report and of a comparison, each with a text alternative that states what it shows.

A figure whose quantities are missing, or that would compare one thing with nothing, is left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spice_select.choices import PoolRecord
from spice_select.errors import ConfigError
from spice_select.report import drawing
from spice_select.report.content import Comparison, Curve, PoolPart, Rival, SelectionReport, TargetStory, Theory
from spice_select.report.drawing import Plot, short_name
from spice_select.report.numbers import nats, number
from spice_select.report.theory import curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_SOURCES = 12


def report_plots(report: SelectionReport) -> list[Plot]:
    """The figures of a report, as far as there are quantities for them."""
    theory, parts = report.theory, report.composition
    plots: list[Plot] = []
    if theory is not None and theory.gain.picks:
        plots += [_gain(theory), _conflict(theory)]
    if theory is not None and theory.rivals:
        plots.append(_information([Rival("these picks", *[theory.compared] * 3), *theory.rivals]))
    if report.target is not None and report.target.curve.picks:
        plots.append(_coverage(report.target))
    if len(parts.lengths) > 1:
        plots.append(_kept(parts.lengths, "lengths", "trained tokens"))
    if len(parts.sources) > 1:
        plots.append(_kept(_largest(parts.sources), "sources", "source"))
    return plots


def comparison_plots(comparison: Comparison) -> list[Plot]:
    """How the gain of each run falls; nothing where no run has gains."""
    gains = {run.name: run.gain for run in comparison.runs if run.gain is not None}

    def draw(axes: Any) -> None:
        for place, (name, gain) in enumerate(gains.items()):
            drawing.line(axes, gain, place, short_name(name))
        drawing.curve_axes(axes, list(gains.values()))

    ends = [
        f"{short_name(name)} from {number(gain.mean[0])} to {number(gain.mean[-1])}" for name, gain in gains.items()
    ]
    alt = f"Line chart of the mean gain in nats, from the first pick to the last: {'; '.join(ends)}."
    return [Plot("decay", "What each pick adds, on the same gradients", alt, 4.2, draw)] if gains else []


def plot_decay(records: Sequence[PoolRecord], axes: "Axes | None" = None) -> "Axes":
    """Draw mean gain and base by pick over candidate pools, with the middle 80 % of the pools' gains as a band.

    Without `axes`, makes a figure (`axes.figure`) that no window shows. Raises `ConfigError` without gradients.
    """
    from matplotlib.figure import Figure

    measured = [(record.picks, record.measures) for record in records if record.measures is not None and record.picks]
    if not measured:
        raise ConfigError("there is no gain to plot: this method computes no gradients.")
    drawn = axes if axes is not None else Figure(layout="constrained").subplots()
    gain = curve([[measures.gain[place] for place in picks] for picks, measures in measured])
    base = curve([[measures.base[place] for place in picks] for picks, measures in measured])
    _gain_and_base(drawn, gain, base)
    drawing.curve_axes(drawn, [gain, base])
    return drawn


def _gain_and_base(axes: Any, gain: Curve, base: Curve) -> None:
    drawing.line(axes, gain, 0, "gain, at its pick")
    drawing.line(axes, base, 1, "base, without other picks")
    drawing.band(axes, gain, 0)


def _gain(theory: Theory) -> Plot:
    """Gain with its band, and the base above it; the area between the two is epsilon."""
    gain, base = theory.gain, theory.base

    def draw(axes: Any) -> None:
        hatch: Mapping[str, Any] = {"facecolor": "none", "edgecolor": "0.5", "hatch": "\\\\\\", "linewidth": 0}
        axes.fill_between(gain.picks, gain.mean, base.mean, label="epsilon = gain − base", **hatch)
        _gain_and_base(axes, gain, base)
        if theory.half_life is not None:
            label = f"half-life: {theory.half_life:,.4g} picks"
            axes.axvline(theory.half_life, color="C2", linestyle=":", label=label)
        drawing.curve_axes(axes, [gain, base])

    alt = (
        f"Line chart. The mean gain goes from {number(gain.mean[0])} nats at the first pick to {number(gain.mean[-1])} "
        f"at the last. Without the other picks, the last one would add {number(base.mean[-1])} nats."
    )
    return Plot("gain", "What each pick adds", alt, 3.5, draw)


def _conflict(theory: Theory) -> Plot:
    shown = theory.conflict

    def draw(axes: Any) -> None:
        label = f"mean of {theory.pools:,} candidate pools" if theory.pools > 1 else "the candidate pool"
        drawing.line(axes, shown, 1, label)
        drawing.band(axes, shown, 1)
        drawing.curve_axes(axes, [shown], "conflict (0 none, 1 opposite)")

    highest = max(range(len(shown.mean)), key=shown.mean.__getitem__)
    alt = (
        f"Line chart. The mean conflict is highest, {number(shown.mean[highest])}, at pick {shown.picks[highest]:,}, "
        f"and {number(shown.mean[-1])} at the last pick; 0 is no conflict, 1 the opposite direction."
    )
    return Plot("conflict", "How far each pick opposes those before it", alt, 3.0, draw)


def _information(bars: Sequence[Rival]) -> Plot:
    """A bar for the picks and one for each rival, with the range where there are several draws."""

    def draw(axes: Any) -> None:
        others = len(bars) - 1
        style: dict[str, Any] = {"color": ["C0", *["none"] * others], "edgecolor": ["C0", *["C1"] * others]}
        style |= {"hatch": ["", *["///"] * others], "ecolor": "0.5", "capsize": 4}
        ranges = [
            (bar.information - bar.low, bar.high - bar.information)
            if bar.low < bar.information < bar.high
            else (math.nan,) * 2
            for bar in bars
        ]  # equal draws differ in the last bits only
        labels = [nats(bar.information) for bar in bars]
        values = [bar.information for bar in bars]
        drawing.bars(axes, [bar.name for bar in bars], values, labels, xerr=list(zip(*ranges, strict=True)), **style)
        axes.set_xlabel("information U (nats)")

    picks, *rivals = [f"{short_name(bar.name)} {nats(bar.information)}" for bar in bars]
    alt = f"Bar chart of information in nats: {picks}, against {', '.join(rivals)}."
    return Plot("information", "Information against other choices", alt, 1.1 + 0.4 * len(bars), draw)


def _coverage(target: TargetStory) -> Plot:
    """Mean coverage by number of picks, with what the whole pool and random rows reach."""
    curve = target.curve

    def draw(axes: Any) -> None:
        drawing.line(axes, curve, 0, "picks")
        drawing.band(axes, curve, 0)
        axes.axhline(target.whole, color="C1", linestyle="--", label=f"whole pool: {target.whole:.1%}")
        axes.axhline(target.random, color="C2", linestyle=":", label=f"random rows: {target.random:.1%}")
        axes.set_ylim(0, 1.05 * max(target.whole, *curve.mean, 1e-3))
        axes.set_xlabel("picks")
        axes.set_ylabel("mean coverage of the target")
        drawing.legend(axes)

    alt = (
        f"Line chart. The mean coverage of the target goes from {curve.mean[0]:.1%} after {curve.picks[0]:,} "
        f"{'pick' if curve.picks[0] == 1 else 'picks'} to {curve.mean[-1]:.1%} after {curve.picks[-1]:,}. The whole "
        f"pool reaches {target.whole:.1%}, random rows of the same number {target.random:.1%}."
    )
    return Plot("coverage", "How much of the target the picks cover", alt, 3.2, draw)


def _kept(parts: Sequence[PoolPart], name: str, by: str) -> Plot:
    shares = [_percent(part.kept, part.rows) for part in parts]
    whole = _percent(sum(part.kept for part in parts), sum(part.rows for part in parts))

    def draw(axes: Any) -> None:
        drawing.bars(axes, [part.name for part in parts], shares, [f"{share:.1f}%" for share in shares])
        axes.axvline(whole, color="C1", linestyle="--", label=f"of all rows: {whole:.1f}%")
        axes.set_xlabel("share kept (%)")
        axes.set_ylabel(by)
        drawing.legend(axes)

    most, least = (shares.index(best(shares)) for best in (max, min))
    alt = (
        f"Bar chart by {by}. Of all rows, {whole:.1f}% are kept; most of {short_name(parts[most].name)}, "
        f"{shares[most]:.1f}%, and least of {short_name(parts[least].name)}, {shares[least]:.1f}%."
    )
    return Plot(name, f"Share kept, by {by}", alt, 1.4 + 0.3 * len(parts), draw)


def _largest(sources: Sequence[PoolPart]) -> list[PoolPart]:
    by_rows = sorted(sources, key=lambda part: (-part.rows, part.name))
    large, small = by_rows[:_MOST_SOURCES], by_rows[_MOST_SOURCES:]
    columns = zip(*((part.rows, part.kept, part.tokens, part.kept_tokens) for part in small), strict=True)
    others = [PoolPart(f"{len(small):,} other sources", *map(sum, columns))] if small else []
    return [*(part for part in sources if part in large), *others]


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
