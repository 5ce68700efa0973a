"""What `select` and `pick` return."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from spice_select.choices import PoolRecord
from spice_select.config import RunConfig
from spice_select.errors import ConfigError
from spice_select.output.scores import scores_table  # pyright: ignore[reportUnknownVariableType]
from spice_select.output.summary import Summary
from spice_select.pool.types import Listing
from spice_select.progress import NoProgress
from spice_select.report.build import build, write
from spice_select.report.figures import plot_decay
from spice_select.row_tables import Chat

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


@dataclass(frozen=True, slots=True)
class RunResult:
    """What `select` returns: the chosen rows, and all that is known about the choice.

    `indices` are places among the usable rows, in the order of picking, pool by pool; `rows` are the chosen rows as
    they were, in the pool's order.
    """

    config: RunConfig
    pool: Listing
    chosen: list[Chat]
    records: list[PoolRecord]
    summary: Summary
    output: Path | None
    seconds: dict[str, float]

    @property
    def indices(self) -> list[int]:
        """Chosen examples in the order of picking."""
        return [row for record in self.records for row in record.picked_rows]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Chosen rows, all fields, in the pool's order."""
        return [chat.row.data for chat in self.chosen]

    def report(self, embeddings: str | Path | None = None) -> Path:
        """Write `report.html` and its figures into the run's directory anew; returns the page's path.

        `embeddings` is a .npy file with a vector for every usable row, in which diversity is measured too. Raises
        `ConfigError` if the run has no directory, or the embeddings do not fit it.
        """
        if self.output is None:
            raise ConfigError("a report needs the run's directory; give select an output.")
        vectors = None if embeddings is None else Path(embeddings)
        return write(build(self.output, NoProgress(), vectors), self.output)[0]

    def to_pandas(self) -> "DataFrame":
        """The table of scores: a line for every usable row, with the columns of scores.parquet."""
        return cast("DataFrame", scores_table(self.pool.lines, self.records).to_pandas())  # pyright: ignore[reportUnknownMemberType]

    def plot_decay(self, axes: "Axes | None" = None) -> "Axes":
        """Draw how the gain falls from pick to pick, and its base, on `axes` or a figure of their own.

        Raises `ConfigError` if no gradient was computed.
        """
        return plot_decay(self.records, axes)
