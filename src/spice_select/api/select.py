"""`select`: the one place that wires the stages together.

    from spice_select import select
    result = select(["pool.jsonl"], budget="10%", output="run")
    result.rows          # the chosen rows as they were, in the pool's order

The same function stands behind `spice-select run`.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spice_select.api.result import RunResult
from spice_select.choices import PoolRecord, chosen_rows
from spice_select.config import GREEDY, WITHOUT_GRADIENTS, WITHOUT_MODEL, RunConfig
from spice_select.costs.forecast import Forecast
from spice_select.distributed.process_group import joined_processes, texts_of_all, wait_for_all
from spice_select.files.directory import (
    CHECKPOINT,
    Existing,
    opened_run,
    refuse_links,
    refuse_own_inputs,
    refuse_own_stores,
)
from spice_select.files.versions import decisive_versions
from spice_select.information.ranks import Ranks
from spice_select.output import recipes
from spice_select.output.summary import summarise
from spice_select.output.write_run import write_run
from spice_select.pool.examples import PoolInput
from spice_select.pool.sources import as_list
from spice_select.prepared import Prepared, merged_config, prepare, tell_about
from spice_select.progress import NoProgress, Progress
from spice_select.proxy.lora import Proxy
from spice_select.report.build import close_with_page
from spice_select.row_tables import write_texts
from spice_select.schedule.budget import limit_of, only, without_excluded
from spice_select.schedule.candidate_pools import memory_advice, run_interleaved
from spice_select.schedule.checkpoint import STORE, TEXTS, Checkpoint
from spice_select.schedule.extraction import extract, open_given, store_identity
from spice_select.schedule.forecast import forecast_run
from spice_select.schedule.ranking import run_ordered
from spice_select.schedule.whole_pool import choose_all
from spice_select.stopwatch import Stopwatch
from spice_select.store.layout import MANIFEST as STORE_MANIFEST
from spice_select.store.layout import file_digest
from spice_select.store.reading import GradientStore

MACHINE_KEYS = {"token_budget", "gradient_memory", "parquet", "device", "skip_invalid", "on_bad_gradient", "preset"}
"""Options that may differ between a run and its resumption: they do not decide which rows are chosen, or as
`on_bad_gradient` decide whether a run goes on."""


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
        output: directory to leave the results in. Without one nothing is written and the run cannot be resumed.
        existing: what to do when `output` exists: "refuse", "resume" or "overwrite".
        progress: told about stages and finished rows.
        **options: fields of `RunConfig`; they win over `config`.

    Raises:
        SpiceSelectError: whatever the user can mend; the message says how. Nothing is written before the options, the
            pool and the model are known to be good.

    """
    merged = merged_config(config, options)
    inputs = as_list(pools)
    reporter = progress or NoProgress()
    with joined_processes() as ranks:
        if output is not None:
            return _run(inputs, merged, Path(output), existing, reporter, ranks, explain=True)
        with tempfile.TemporaryDirectory(prefix="spice-select-") as scratch:
            shared = Path(texts_of_all(ranks, scratch)[0])
            found = _run(inputs, merged, shared / "run", "refuse", reporter, ranks, explain=False)
            return replace(found, output=None)


def forecast(
    pools: PoolInput | Sequence[PoolInput],
    config: RunConfig | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Forecast:
    """What `select` would take for the same arguments: time, memory, disk. A few batches are timed, nothing is written.

    Raises:
        SpiceSelectError: as `select`.

    """
    merged = merged_config(config, options)
    inputs = as_list(pools)
    reporter = progress or NoProgress()
    prepared = prepare(inputs, merged, reporter)
    budget = merged.budget_rows(len(prepared.pool.examples), prepared.pool.trained_tokens)
    tell_about(prepared.pool, merged, _purpose(budget, merged), reporter)
    with memory_advice():
        return forecast_run(prepared, budget, reporter)


def _run(
    inputs: list[PoolInput],
    config: RunConfig,
    directory: Path,
    existing: Existing,
    progress: Progress,
    ranks: Ranks,
    *,
    explain: bool,
) -> RunResult:
    """The run; with `explain` a report closes it."""
    main = ranks.rank == 0
    with opened_run(directory, existing, main=main, wait=lambda: wait_for_all(ranks)) as opened:
        watch = Stopwatch()
        with watch.time("reading"):
            prepared = prepare(inputs, config, progress)
        pool, config = prepared.pool, prepared.config
        budget = config.budget_rows(len(pool.examples), pool.trained_tokens)
        listing = pool.listing()
        given = None
        if config.pool_size == "all" and config.method in GREEDY:
            kept = without_excluded(config, listing.lines, NoProgress())
            budget = limit_of(config, only(listing.lines, kept)).most
            given = open_given(config, store_identity(prepared), "the pool", prepared.device)

        tell_about(pool, config, _purpose(budget, config), progress)
        refuse_own_inputs(directory, [file.path for file in pool.files])
        refuse_own_stores(directory, [] if given is None else [given.path])
        checkpoint = Checkpoint(directory / CHECKPOINT)
        identity = _identity(prepared, ranks.size)
        complete = opened.state == "complete"
        if opened.state != "new":
            checkpoint.verify(identity)
        needs_proxy = config.method not in WITHOUT_MODEL and not complete
        with watch.time("loading"):
            proxy = prepared.proxy(progress) if needs_proxy else None
        opened.begin(lambda: checkpoint.start(identity), lambda: checkpoint.verify(identity))
        if complete:
            records = [record for _, record in sorted(checkpoint.records().items())]
        else:
            records = _choose(prepared, budget, proxy, checkpoint, given, progress, watch, ranks)
        chosen = [pool.examples[i] for i in chosen_rows(records)]
        summary = summarise(listing.lines, records, sum(record.quota for record in records))
        if not complete and main:
            target = recipes.Target(prepared.hub_name, config.max_length, prepared.end_of_turn)
            if config.pool_size != "all" or config.method not in GREEDY:
                with watch.time("writing"):
                    write_texts(checkpoint.directory / TEXTS, pool.examples)
            origin = {"model": prepared.about}
            write_run(directory, config, listing, chosen, records, summary, target, watch, origin)
            checkpoint.drop_proxy()
        wait_for_all(ranks)
        if explain and not complete and main:
            with watch.time("report"):
                close_with_page(directory, progress)
        return RunResult(config, listing, [*chosen], records, summary, directory, watch.seconds)


def _choose(
    prepared: Prepared,
    budget: int,
    proxy: Proxy | None,
    checkpoint: Checkpoint,
    given: GradientStore | None,
    progress: Progress,
    watch: Stopwatch,
    ranks: Ranks,
) -> list[PoolRecord]:
    config, pool = prepared.config, prepared.pool
    if config.method in WITHOUT_GRADIENTS:
        with watch.time("selection"):
            return run_ordered(pool.examples, config, proxy, checkpoint, progress)
    assert proxy is not None
    if config.pool_size != "all":
        return run_interleaved(pool.examples, budget, config, proxy, checkpoint, progress, watch, ranks)
    place = checkpoint.directory / STORE
    refuse_links(checkpoint.directory, STORE)
    extract(prepared, proxy, place, progress, watch, given)
    with watch.time("selection"):
        store = GradientStore.open(place, prepared.device)
        record, _ = choose_all(store, store.listing.lines, config, given, progress, ranks)
    if ranks.rank == 0:
        checkpoint.save_record(record)
    return [record]


def _purpose(budget: int, config: RunConfig) -> str:
    if config.budget_tokens is None:
        return f"keeping {budget:,}"
    return f"keeping about {config.budget_tokens:,} trained tokens"


def _identity(prepared: Prepared, processes: int) -> dict[str, Any]:
    """Return what must be the same for a resumed run to give the identical subset."""
    config = prepared.config
    decisive = {key: value for key, value in config.model_dump().items() if key not in MACHINE_KEYS}
    if config.dtype != "float32" or config.pool_size == "all":
        decisive["token_budget"] = config.token_budget  # rounding is too coarse for batches to make no difference
    if config.dtype != "float32" and config.pool_size != "all":
        decisive["processes"] = processes  # nor for how a step's rows are shared out
    if config.exclude is not None:
        decisive["exclude"] = file_digest(Path(config.exclude))
    if config.given is not None:
        decisive["given"] = file_digest(Path(config.given) / STORE_MANIFEST)
    return {
        **decisive,
        "data": [file.sha256 for file in prepared.pool.files],
        "weights": prepared.about["fingerprint"],
        "device": prepared.about["device"],
        "versions": decisive_versions(),
    }
