"""What `select` and `pick` return."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import datasets
import pyarrow as pa

from spice_select.choices import PoolRecord, chosen_rows
from spice_select.config import RunConfig
from spice_select.errors import ConfigError
from spice_select.output.scores import scores_table  # pyright: ignore[reportUnknownVariableType]
from spice_select.output.summary import Summary, essentials
from spice_select.pool.arrow_rows import HAS_JSON
from spice_select.pool.problems import one_line
from spice_select.pool.sources import PoolInput
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

    `indices` are places among all rows of the inputs, in the order of picking, pool by pool; `rows` are the chosen rows
    as they were, in the pool's order. `inputs` are what was chosen from, empty for a pick.
    """

    config: RunConfig
    pool: Listing
    chosen: list[Chat]
    records: list[PoolRecord]
    summary: Summary
    output: Path | None
    seconds: dict[str, float]
    inputs: list[PoolInput] = field(default_factory=list[PoolInput], repr=False)

    @property
    def indices(self) -> list[int]:
        """Chosen rows in the order of picking, for `dataset.select`; rows that were left out count too.

        Several inputs count one after the other, as `datasets.concatenate_datasets` joins them.
        """
        return self.pool.places(self.pool.lines[row] for record in self.records for row in record.picked_rows)

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

    @property
    def scores(self) -> "DataFrame":
        """A line for every usable row, with the columns of scores.parquet; its index counts as `indices` do."""
        frame = cast("DataFrame", scores_table(self.pool.lines, self.records).to_pandas())  # pyright: ignore[reportUnknownMemberType]
        frame.index = self.pool.places(self.pool.lines)  # pyright: ignore[reportAttributeAccessIssue]
        return frame

    def to_dataset(self, *, scores: bool = False) -> datasets.Dataset:
        """The chosen rows, all fields, in the pool's order.

        Of `datasets.Dataset`s with the same features they are a selection that keeps these; of other inputs the types
        are found, and a field whose values have none in common is JSON. `scores` adds the columns of scores.parquet but
        `index`, `picked` and `problem`, each with the prefix `spice_`. Raises `ConfigError` if there is such a column
        already, or if `datasets` is older than 4.7, which first has JSON, where it would be needed.
        """
        picked = chosen_rows(self.records)
        given = [one for one in self.inputs if isinstance(one, datasets.Dataset)]
        if given and len(given) == len(self.inputs) and all(one.features == given[0].features for one in given):
            places = self.pool.places(self.pool.lines[row] for row in picked)
            rows = datasets.concatenate_datasets(given).select(places)
        else:
            fields = dict.fromkeys(key for row in self.rows for key in row)
            whole = [{key: row.get(key) for key in fields} for row in self.rows]
            rows = _found_types(whole)
        if not scores:
            return rows
        table = cast(Any, scores_table(self.pool.lines, self.records)).take(picked)
        names = [name for name in cast("list[str]", table.column_names) if name not in ("index", "picked", "problem")]
        added = {f"spice_{name}": name for name in names}
        if twice := sorted(added.keys() & set(rows.column_names)):
            raise ConfigError(f"the rows have a column '{twice[0]}' already; remove it first, or leave out the scores.")
        columns = datasets.Dataset(table.select([*added.values()]).rename_columns([*added]))
        return datasets.concatenate_datasets([rows, columns], axis=1)

    def _repr_html_(self) -> str:
        """What a notebook shows: the essential figures."""
        cells = {**essentials(self.summary), "output": "none" if self.output is None else str(self.output)}
        lines = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in cells.items())
        return f"<table>{''.join(lines)}</table>"

    def plot_decay(self, axes: "Axes | None" = None) -> "Axes":
        """Draw how the gain falls from pick to pick, and its base, on `axes` or a figure of their own.

        Raises `ConfigError` if no gradient was computed.
        """
        return plot_decay(self.records, axes)


def _found_types(rows: Sequence[Mapping[str, Any]]) -> datasets.Dataset:
    """A dataset of rows with the same fields, whose types are found."""
    options: dict[str, Any] = {"on_mixed_types": "use_json"} if HAS_JSON else {}
    try:
        return datasets.Dataset.from_list([*map(dict, rows)], **options)
    except (cast("type[Exception]", pa.ArrowException), OverflowError) as error:
        raise ConfigError(
            f"the rows' fields have values of different types ({one_line(str(error), 120)}).\n"
            "datasets 4.7 or newer holds them as JSON; `rows` of the result has them as they are."
        ) from None
