"""The end of a run or a pick: its files, the manifest last, and the page."""

from collections.abc import Mapping
from typing import Any

from spice_select.api.result import RunResult
from spice_select.files.directory import CHECKPOINT
from spice_select.output.recipes import ModelToTrain
from spice_select.output.write_run import write_run
from spice_select.progress import Progress
from spice_select.report.build import close_with_page
from spice_select.schedule.checkpoint import Checkpoint
from spice_select.stopwatch import Stopwatch


def finish_run(
    result: RunResult, model: ModelToTrain, origin: Mapping[str, Any], progress: Progress, watch: Stopwatch, *,
    page: bool = True,
) -> None:  # fmt: skip
    """Write all files of a finished run to `result.output`, which holds its checkpoint; `page` writes the report too.

    `model` is the one that trainers' files name, `origin` the manifest's `model` and, for a pick, `store`. Raises
    `OutputError` where a file cannot be written; a page that fails is only noted.
    """
    assert result.output is not None
    write_run(
        result.output, result.config, result.pool, result.chosen, result.records, result.summary, model, watch, origin
    )
    Checkpoint(result.output / CHECKPOINT).drop_proxy()
    if page:
        with watch.time("report"):
            close_with_page(result.output, progress)
