"""One picture: how the gain falls from pick to pick."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spice_select.errors import ConfigError
from spice_select.output.records import PoolRecord
from spice_select.report.theory import curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    drawn.plot(base.steps, base.mean, linestyle="--", label="base: alone")
    drawn.plot(gain.steps, gain.mean, marker="o", markersize=3, label="gain: beside the earlier picks")
    drawn.fill_between(gain.steps, gain.low, gain.high, alpha=0.2)
    drawn.set_xlabel("picks made before")
    drawn.set_ylabel("information (nats)")
    drawn.legend()
    return drawn
