"""`pick`: choose from a gradient store, as often as wanted.

from spice_select import compute_gradients, pick
compute_gradients("pool.jsonl", output="store")
result = pick("store", budget="10%", output="chosen")
"""

from pathlib import Path
from typing import Any, cast

from spice_select.api.finish_run import finish_run
from spice_select.api.gradients import PICK_OPTIONS
from spice_select.api.result import RunResult
from spice_select.config import GREEDY, PRESETS, RunConfig, resolve
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
from spice_select.files.locks import refuse_busy, sole_writer
from spice_select.output.recipes import Target
from spice_select.output.summary import summarise
from spice_select.output.write_run import chosen_rows
from spice_select.progress import NoProgress, Progress
from spice_select.proxy.loading import pick_device
from spice_select.schedule.checkpoint import Checkpoint
from spice_select.schedule.extraction import open_given
from spice_select.schedule.whole_pool import choose_from_store
from spice_select.stopwatch import Stopwatch
from spice_select.store.layout import AGAIN, MANIFEST, file_digest
from spice_select.store.reading import GradientStore


def pick(
    store: str | Path | GradientStore,
    *,
    output: str | Path | None = None,
    existing: Existing = "refuse",
    progress: Progress | None = None,
    **options: Any,
) -> RunResult:
    """Choose among all rows of a gradient store; neither the pool's files nor the model are needed.

    Under a launcher (torchrun, accelerate) each process reads a range of rows; the first one writes.

    Args:
        store: its directory, or the store itself.
        output: directory for the results, which are those of a run; without one nothing is written.
        existing: what to do when `output` exists: "refuse" or "overwrite".
        progress: receives stages and picks.
        **options: `PICK_OPTIONS`, fields of `RunConfig`.

    Raises:
        SpiceSelectError: a mistake that the user can correct; the message says how.

    """
    watch, reporter = Stopwatch(), progress or NoProgress()
    directory = None if output is None else Path(output)
    if directory is not None:
        _refuse_place(directory, existing, store, options.get("given"))
    with watch.time("reading"):
        opened = store if isinstance(store, GradientStore) else _open(store, options)
        config, listing = _pick_config(opened, options, reporter), opened.listing
    with joined_processes() as ranks:
        given = open_given(config, opened.identity, str(opened.path), opened.device)
        with watch.time("selection"):
            record, found = choose_from_store(opened, config, given, reporter, ranks)
        reporter.note(
            f"{found.refreshed:,} gains were computed again for {len(record.picks):,} picks, "
            f"{opened.bytes_read / 1e6:,.0f} MB of features read"
        )
        chosen = [*opened.chats(chosen_rows([record]))]
        summary = summarise(listing.lines, [record], record.quota)
        result = RunResult(config, listing, [*chosen], [record], summary, directory, watch.seconds)
        if directory is not None and ranks.rank == 0:
            ensure_writable(directory)
            with sole_writer(directory):
                inspect_output(directory, existing)  # again: others may have written since
                _write(opened, result, directory, reporter, watch)
        wait_for_all(ranks)
    return result


def _refuse_place(directory: Path, existing: Existing, *stores: object) -> None:
    """Refuse a directory that a pick may not write to, or that holds a store it reads."""
    if existing == "resume":
        raise ConfigError("a pick takes little time and cannot be resumed; choose refuse or overwrite.")
    inspect_output(directory, existing)
    refuse_busy(directory)
    paths = [store.path if isinstance(store, GradientStore) else store for store in stores if store is not None]
    refuse_own_stores(directory, [Path(cast("str | Path", path)) for path in paths])


def _open(store: str | Path, options: dict[str, Any]) -> GradientStore:
    return GradientStore.open(store, pick_device(str(options.get("device", "auto"))))


def _write(store: GradientStore, result: RunResult, directory: Path, progress: Progress, watch: Stopwatch) -> None:
    clear(directory)
    # The sha256 is that of the store's manifest, which lists the digest of every other file.
    about_store = {"path": str(store.path.resolve()), "sha256": file_digest(store.path / MANIFEST)}
    checkpoint = Checkpoint(directory / CHECKPOINT)
    checkpoint.start({"store": about_store, **result.config.model_dump()})
    checkpoint.save_record(result.records[0])
    target = Target(store.about["hub_name"], result.config.max_length, store.about["end_of_turn"])
    finish_run(result, target, store.about["model"], progress, watch, store=about_store)


def _pick_config(store: GradientStore, options: dict[str, Any], progress: Progress) -> RunConfig:
    """All options of a choice: those of the store, and the `options` of the pick."""
    if options.get("method", "spice") not in GREEDY:
        raise ConfigError(
            f"method {options['method']}: pick chooses by {' and '.join(GREEDY)}; for other methods use "
            "`spice-select run POOL --method ...`."
        )
    for key in options:
        if key in RunConfig.model_fields and key not in PICK_OPTIONS:
            raise ConfigError(
                f"{key} was set when the store was made; make another store with `spice-select gradients`."
            )
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
