"""One-shot selection through a gradient store: compute once, pick as often as wanted.

from spice_select import compute_gradients, pick
compute_gradients("pool.jsonl", output="store")
result = pick("store", budget="10%", output="chosen")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spice_select.api.result import RunResult
from spice_select.config import GREEDY, PRESETS, RunConfig, resolve
from spice_select.config_file import dump_yaml
from spice_select.costs.forecast import Forecast
from spice_select.distributed.process_group import joined_processes, wait_for_all
from spice_select.errors import ConfigError, OutputError
from spice_select.files.directory import (
    CHECKPOINT,
    Existing,
    clear,
    ensure_writable,
    inspect_output,
    refuse_own_stores,
)
from spice_select.files.directory import MANIFEST as OUTPUT_MANIFEST
from spice_select.files.locks import refuse_busy, sole_writer
from spice_select.output import recipes
from spice_select.output.manifest import manifest, write_manifest
from spice_select.output.summary import summarise
from spice_select.output.write_run import chosen_rows, write_results
from spice_select.pool.examples import PoolInput
from spice_select.pool.sources import as_list
from spice_select.pool.types import Chat
from spice_select.prepared import Prepared, merged_config, prepare, tell_about
from spice_select.progress import NoProgress, Progress
from spice_select.proxy.loading import pick_device
from spice_select.report.build import close_with_page
from spice_select.schedule.candidate_pools import memory_advice
from spice_select.schedule.checkpoint import Checkpoint
from spice_select.schedule.choice_forecast import forecast_choice
from spice_select.schedule.extraction import (
    extract,
    open_given,
    refuse_incomparable,
    store_identity,
)
from spice_select.schedule.forecast import forecast_new_store
from spice_select.schedule.whole_pool import choose_all
from spice_select.stopwatch import Stopwatch
from spice_select.store.layout import AGAIN, MANIFEST, file_digest
from spice_select.store.reading import GradientStore
from spice_select.store.writing import check_place

PICK_OPTIONS = (
    "budget", "method", "preset", "quota", "given", "exclude", "penalty", "stop_ratio", "scale", "rank", "alpha",
    "alpha_mode", "device", "parquet",
)  # fmt: skip
"""Options of a pick; all others are those of the store."""


def compute_gradients(
    pools: PoolInput | Sequence[PoolInput],
    config: RunConfig | None = None,
    *,
    output: str | Path,
    proxy_of: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> GradientStore:
    """Compute the projected gradient of every row of `pools` into a store at `output`, or complete one.

    Several processes may do so at once, on several hosts if they share the directory: each takes what no other has.

    Args:
        pools: as for `select`.
        config: a validated configuration; or give its fields as keyword `options`.
        output: the store's directory. A store of the same pool and options is completed, mended, or found whole.
        proxy_of: a store whose warmed-up proxy is used, so that the two stores' gradients can be compared.
        progress: told about stages and finished rows.
        **options: fields of `RunConfig`; they win over `config`.

    Raises:
        SpiceSelectError: whatever the user can mend; the message says how.

    """
    place, reporter = Path(output), progress or NoProgress()
    check_place(place)
    prepared, like = _prepared(pools, config, proxy_of, str(place), reporter, options)
    extract(prepared, prepared.proxy(reporter), place, reporter, Stopwatch(), like)
    return GradientStore.open(place, prepared.device)


def forecast_gradients(
    pools: PoolInput | Sequence[PoolInput],
    config: RunConfig | None = None,
    *,
    proxy_of: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Forecast:
    """What `compute_gradients` would take for a new store: time, memory, disk. Nothing is written.

    Raises:
        SpiceSelectError: as `compute_gradients`.

    """
    prepared, _ = _prepared(pools, config, proxy_of, "the new store", progress or NoProgress(), options)
    with memory_advice():
        return forecast_new_store(prepared, progress or NoProgress(), warm_up=proxy_of is None)


def pick(
    store: str | Path | GradientStore,
    *,
    output: str | Path | None = None,
    existing: Existing = "refuse",
    progress: Progress | None = None,
    **options: Any,
) -> RunResult:
    """Choose among all rows of a gradient store; neither the pool's files nor the model are needed.

    Under a launcher (torchrun, accelerate) its processes read a range of rows each; the first one writes.

    Args:
        store: its directory, or the store itself.
        output: directory to leave the results in, as those of a run; without one nothing is written.
        existing: what to do when `output` exists: "refuse" or "overwrite".
        progress: told about stages and picks.
        **options: `PICK_OPTIONS`, fields of `RunConfig`.

    Raises:
        SpiceSelectError: whatever the user can mend; the message says how.

    """
    watch = Stopwatch()
    reporter = progress or NoProgress()
    if existing == "resume":
        raise ConfigError("a pick takes little time and cannot be resumed; choose refuse or overwrite.")
    directory = None if output is None else Path(output)
    if directory is not None:
        inspect_output(directory, existing)
        refuse_busy(directory)
        named = [store.path if isinstance(store, GradientStore) else store, options.get("given")]
        refuse_own_stores(directory, [Path(name) for name in named if name is not None])
    with watch.time("reading"):
        opened, config = _opened(store, options, reporter)
        listing = opened.listing
    with joined_processes() as ranks:
        given = open_given(config, opened.identity, str(opened.path), opened.device)
        with watch.time("selection"):
            record, found = choose_all(opened, listing.lines, config, given, reporter, ranks)
        reporter.note(
            f"{found.evaluated:,} rows were looked at again for {len(record.picks):,} picks, "
            f"{opened.bytes_read / 1e6:,.0f} MB of features read"
        )
        chosen: list[Chat] = [*opened.chats(chosen_rows([record]))]
        summary = summarise(listing.lines, [record], record.quota)
        result = RunResult(config, listing, chosen, [record], summary, directory, watch.seconds)
        if directory is not None and ranks.rank == 0:
            ensure_writable(directory)
            with sole_writer(directory):
                inspect_output(directory, existing)  # again: others may have written since
                _write(opened, result, directory, watch)
                with watch.time("report"):
                    close_with_page(directory, reporter)
        wait_for_all(ranks)
    return result


def forecast_pick(store: str | Path | GradientStore, *, progress: Progress | None = None, **options: Any) -> Forecast:
    """What `pick` would take for the same arguments, in one process: time, memory, disk. Nothing is written.

    Raises:
        SpiceSelectError: as `pick`.

    """
    reporter = progress or NoProgress()
    opened, config = _opened(store, options, reporter)
    given = open_given(config, opened.identity, str(opened.path), opened.device)
    return forecast_choice(opened, config, given, reporter)


def _opened(
    store: str | Path | GradientStore, options: dict[str, Any], progress: Progress
) -> tuple[GradientStore, RunConfig]:
    """The store, and all options of a choice from it."""
    opened = store if isinstance(store, GradientStore) else GradientStore.open(store, pick_device(_device(options)))
    return opened, _pick_config(opened, options, progress)


def _prepared(
    pools: PoolInput | Sequence[PoolInput],
    config: RunConfig | None,
    proxy_of: str | Path | None,
    name: str,
    progress: Progress,
    options: dict[str, Any],
) -> tuple[Prepared, GradientStore | None]:
    """The pool of a store `name` with its model found, and the store whose proxy it takes, if any."""
    for key in options:
        if key in PICK_OPTIONS and key != "device":
            raise ConfigError(f"{key} is an option of pick, not of the gradients; give it to `pick`.")
    merged = merged_config(config, {**options, "pool_size": "all"})
    inputs = as_list(pools)
    like = None if proxy_of is None else GradientStore.open(proxy_of)
    prepared = prepare(inputs, merged, progress)
    size = 2 * merged.dim * len(prepared.pool.examples) / 1e6
    tell_about(prepared.pool, merged, f"the store takes about {size:,.1f} MB", progress)
    if like is not None:
        refuse_incomparable(like, store_identity(prepared), "proxy_of", name)
    return prepared, like


def _write(store: GradientStore, result: RunResult, directory: Path, watch: Stopwatch) -> None:
    config, listing = result.config, result.pool
    clear(directory)
    checkpoint = Checkpoint(directory / CHECKPOINT)
    of_store = {"path": str(store.path.resolve()), "sha256": file_digest(store.path / MANIFEST)}
    checkpoint.start({"store": of_store, **config.model_dump()})
    checkpoint.save_record(result.records[0])
    target = recipes.Target(store.about["hub_name"], config.max_length, store.about["end_of_turn"])
    run_yaml = dump_yaml(config, [file.path for file in listing.files], str(directory))
    chosen = result.chosen
    with watch.time("writing"):
        write_results(directory, listing, chosen, result.records, result.summary, target, run_yaml, config.parquet)
    about = manifest(config, listing, store.about["model"], result.records, result.summary, watch.seconds)
    about["store"] = of_store  # sha256 of its manifest, which names every other file's
    write_manifest(directory / OUTPUT_MANIFEST, about)


def _device(options: dict[str, Any]) -> str:
    return str(options.get("device", "auto"))


def _pick_config(store: GradientStore, options: dict[str, Any], progress: Progress) -> RunConfig:
    if options.get("method", "spice") not in GREEDY:
        raise ConfigError(
            f"method {options['method']}: pick chooses by {' and '.join(GREEDY)}; for others use "
            "`spice-select run POOL --method ...`."
        )
    for key in options:
        if key in RunConfig.model_fields and key not in PICK_OPTIONS:
            raise ConfigError(f"{key} was decided when the store was made; make another with `spice-select gradients`.")
    made = store.about.get("config")
    if not isinstance(made, dict):
        raise OutputError(f"{store.path}: pool.json has no config.\n{AGAIN}")
    kept: dict[str, Any] = {key: value for key, value in made.items() if key not in PICK_OPTIONS}  # pyright: ignore[reportUnknownVariableType]
    preset = PRESETS.get(str(options.get("preset")), {})
    chosen = {key: value for key, value in preset.items() if key in PICK_OPTIONS}
    if any(kept.get(key) != value for key, value in preset.items() if key not in chosen):
        progress.note(f"preset {options['preset']}: the store's proxy was warmed up for {kept['warmup_steps']} steps")
    wanted = {key: value for key, value in options.items() if key != "preset" or not preset}
    return resolve(kept, {"pool_size": "all", **chosen, **wanted}, "options")
