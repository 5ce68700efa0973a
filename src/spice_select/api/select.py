"""`select`: read the pool, load the proxy, choose, write, report.

    from spice_select import select
    result = select(["pool.jsonl"], budget="10%", output="run")
    result.rows          # the chosen rows as they were, in the pool's order

`spice-select run` calls the same function.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from spice_select.api.finish_run import finish_run
from spice_select.api.result import RunResult
from spice_select.choices import chosen_rows
from spice_select.config import RunConfig
from spice_select.distributed.process_group import all_gather_texts, barrier, process_group
from spice_select.distributed.shared_directory import check_shared
from spice_select.errors import ConfigError
from spice_select.files.directory import CHECKPOINT, Existing, opened_run, refuse_own_inputs
from spice_select.information.ranks import Ranks
from spice_select.option_values import FROM_STORE, TRAINING, WITHOUT_GRADIENTS, WITHOUT_MODEL
from spice_select.output.recipes import ModelToTrain
from spice_select.output.summary import summarise
from spice_select.pool.examples import PoolInput
from spice_select.pool.sources import as_list
from spice_select.prepared import Prepared, copied_once, merged_config, prepare, report_pool
from spice_select.progress import NoProgress, Progress
from spice_select.row_tables import write_texts
from spice_select.schedule.budget import limit_of, lines_at, without_excluded
from spice_select.schedule.checkpoint import TARGET, TEXTS, Checkpoint
from spice_select.schedule.choose import choose
from spice_select.schedule.extraction import open_given
from spice_select.schedule.identity import run_identity, store_identity
from spice_select.schedule.rating import raters
from spice_select.stopwatch import Stopwatch
from spice_select.store.reading import GradientStore


def select(
    pools: PoolInput | Sequence[PoolInput],
    config: RunConfig | None = None,
    *,
    output: str | Path | None = None,
    existing: Existing = "refuse",
    progress: Progress | None = None,
    **options: Any,
) -> RunResult:
    """Choose the rows of `pools` worth fine-tuning on.

    Args:
        pools: files, dataset directories, hub ids, `datasets.Dataset`s or lists of rows; each is a named source.
        config: a validated configuration; or give its fields as keyword `options`.
        output: directory for the results. Without one nothing is written and the run cannot be resumed.
        existing: what to do when `output` exists: "refuse", "resume" or "overwrite".
        progress: receives stages and finished rows.
        **options: fields of `RunConfig`; they take precedence over `config`.

    Raises:
        SpiceSelectError: a mistake that the user can correct; the message says how. Nothing is written before the
            options, the pool and the model are known to be good.

    """
    merged = merged_config(config, options)
    inputs, reporter = as_list(pools), progress or NoProgress()
    with process_group() as ranks:
        if output is not None:
            return _select(inputs, merged, Path(output), existing, reporter, ranks, page=True)
        with tempfile.TemporaryDirectory(prefix="spice-select-") as scratch:
            shared = Path(all_gather_texts(ranks, scratch)[0])
            found = _select(inputs, merged, shared / "run", "refuse", reporter, ranks, page=False)
            return replace(found, output=None)


def _select(
    inputs: list[PoolInput], config: RunConfig, directory: Path, existing: Existing, progress: Progress, ranks: Ranks,
    *, page: bool,
) -> RunResult:  # fmt: skip
    if config.method in TRAINING and ranks.size > 1:
        raise ConfigError(f"{config.method} trains one model while it chooses; start it in a single process.")
    watch = Stopwatch()
    with opened_run(directory, existing, main=ranks.rank == 0, wait=lambda: barrier(ranks)) as opened:
        check_shared(ranks, directory)
        with watch.time("reading"):
            prepared = prepare(copied_once(inputs, ranks), config, progress)
            budget, given = plan(prepared, progress)
        config, pool, listing = prepared.config, prepared.pool, prepared.pool.listing()
        read = [file.path for read in (pool, *prepared.targets) for file in read.files] + [config.chat_template or ""]
        refuse_own_inputs(directory, read, [] if given is None else [given.path])
        checkpoint, identity = Checkpoint(directory / CHECKPOINT), run_identity(prepared, ranks.size)
        if opened.state != "new":
            checkpoint.verify(identity)  # before time is spent on the model
        with watch.time("loading"):
            needs_proxy = config.method not in WITHOUT_MODEL and opened.state != "complete"
            proxy = prepared.proxy(progress) if needs_proxy else None
        opened.begin(lambda: checkpoint.start(identity), lambda: checkpoint.verify(identity))
        if opened.state == "complete":
            records = [record for _, record in sorted(checkpoint.records().items())]
        else:
            if opened.state == "begun" and config.method in TRAINING:
                progress.note(f"{config.method} keeps nothing before its choice is made, and starts anew")
            records = choose(prepared, budget, proxy, given, checkpoint, progress, watch, ranks)
        chosen = [pool.examples[i] for i in chosen_rows(records)]
        summary = summarise(listing.lines, records)
        result = RunResult(config, listing, [*chosen], records, summary, directory, watch.seconds, inputs)
        if opened.state != "complete" and ranks.rank == 0:
            if config.candidates != "all" or config.method not in FROM_STORE:
                write_texts(checkpoint.directory / TEXTS, pool.examples)
                if prepared.targets:
                    rows = [example for target in prepared.targets for example in target.examples]
                    write_texts(checkpoint.directory / TARGET, rows)
            files = [asdict(file) for target in prepared.targets for file in target.files]
            origin = {"model": prepared.about, "target": files}
            model = ModelToTrain(prepared.hub_name, config.max_length, prepared.source.chat_template)
            finish_run(result, model, origin, progress, watch, page=page)
        barrier(ranks)
    return result


def plan(prepared: Prepared, progress: Progress) -> tuple[int, GradientStore | None]:
    """Report the pool; return the rows to keep at most, and the store of given rows, if any.

    Raises `ConfigError` where budget, quota, excluded ids or given rows do not fit the pool, and as `Rater`.
    """
    config, pool = prepared.config, prepared.pool
    budget, given = config.budget_rows(len(pool.examples), pool.trained_tokens), None
    if config.candidates == "all" and config.method in FROM_STORE:
        lines = pool.listing().lines
        budget = limit_of(config, lines_at(lines, without_excluded(config, lines, NoProgress()))).most
        given = open_given(config, store_identity(prepared), "the pool", prepared.device)
    if config.method == "selectit":
        raters(prepared)  # before time is spent on the model
    tokens = config.budget_tokens
    purpose = f"keeping {budget:,}" if tokens is None else f"keeping about {tokens:,} trained tokens"
    if config.method not in WITHOUT_GRADIENTS:
        whole = config.candidates == "all"
        purpose += ", in one choice among all rows" if whole else f", in candidate pools of {config.candidates:,} rows"
    report_pool(pool, config, purpose, progress)
    for target in prepared.targets:
        names = ", ".join(file.name for file in target.files)
        report_pool(target, config, f"the target, {names}", progress)
    return budget, given
