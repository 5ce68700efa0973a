"""The end of a run or a pick: its files, the manifest last, and the page."""

from collections.abc import Mapping
from typing import Any

from spice_select.api.result import RunResult
from spice_select.config_file import dump_yaml
from spice_select.files.directory import CHECKPOINT, MANIFEST
from spice_select.output.manifest import manifest, write_manifest
from spice_select.output.recipes import Target
from spice_select.output.write_run import write_results
from spice_select.progress import Progress
from spice_select.report.build import close_with_page
from spice_select.schedule.checkpoint import Checkpoint
from spice_select.stopwatch import Stopwatch


def finish_run(
    result: RunResult,
    target: Target,
    model: Mapping[str, Any],
    progress: Progress,
    watch: Stopwatch,
    *,
    page: bool = True,
    **about: Any,
) -> None:
    """Write all files of a finished run to `result.output`, which holds its checkpoint.

    Args:
        result: what was chosen.
        target: the model that trainers' files name.
        model: the proxy, for the manifest.
        progress: receives a note if the page fails.
        watch: receives seconds by stage; the manifest lists those before the page.
        page: whether to write the report's page and figures.
        **about: further plain values for the manifest.

    Raises:
        OutputError: a file cannot be written.

    """
    config, pool, directory = result.config, result.pool, result.output
    assert directory is not None
    replay = dump_yaml(config, [file.path for file in pool.files], str(directory))
    with watch.time("writing"):
        write_results(
            directory, pool, result.chosen, result.records, result.summary, target, replay, config.parquet
        )  # fmt: skip
    content = manifest(config, pool, dict(model), result.records, result.summary, watch.seconds)
    write_manifest(directory / MANIFEST, {**content, **about})
    Checkpoint(directory / CHECKPOINT).drop_proxy()
    if page:
        with watch.time("report"):
            close_with_page(directory, progress)
