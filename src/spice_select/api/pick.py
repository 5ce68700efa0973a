"""`pick`: choose from a gradient store that `compute_gradients` wrote, as often as wanted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from spice_select.api.finish_run import finish_run
from spice_select.api.gradients import PICK_OPTIONS
from spice_select.api.result import RunResult
from spice_select.choices import chosen_rows
from spice_select.config import RunConfig, resolve
from spice_select.distributed.process_group import barrier, process_group
from spice_select.distributed.shared_directory import check_shared
from spice_select.errors import ConfigError
from spice_select.files.directory import CHECKPOINT, Existing, opened_run, refuse_own_inputs
from spice_select.files.records import file_digest
from spice_select.information.ranks import Ranks
from spice_select.option_values import FROM_STORE, IMPLIED, NOUNS
from spice_select.output.recipes import ModelToTrain
from spice_select.output.summary import summarise
from spice_select.progress import NoProgress, Progress
from spice_select.proxy.loading import pick_device
from spice_select.schedule.checkpoint import Checkpoint
from spice_select.schedule.extraction import open_given
from spice_select.schedule.targets import open_targets
from spice_select.schedule.whole_pool import choose_from_store
from spice_select.stopwatch import Stopwatch
from spice_select.store.layout import MANIFEST
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
    if existing == "resume":
        raise ConfigError("a pick takes little time and cannot be resumed; choose refuse or overwrite.")
    if not isinstance(store, GradientStore):
        store = GradientStore.open(store, pick_device(str(options.get("device", "auto"))))
    with process_group() as ranks:
        if output is None:
            return _choose(store, _pick_config(store, options, reporter), reporter, watch, ranks)
        directory = Path(output)
        config = _pick_config(store, options, reporter)
        others = [Path(place) for place in (config.given, *config.target_places) if place is not None]
        refuse_own_inputs(directory, [], [store.path, *others])
        with opened_run(directory, existing, main=ranks.rank == 0, wait=lambda: barrier(ranks)) as opened:
            check_shared(ranks, directory)
            result = replace(_choose(store, config, reporter, watch, ranks), output=directory)
            about_store = _about(store.path)
            about_targets = [
                {**_about(place), "data": GradientStore.open(place).identity["data"]} for place in config.target_places
            ]
            origin = {"model": store.about["model"], "store": about_store, "target": about_targets}
            identity = {"store": about_store, "target_stores": about_targets, **config.model_dump()}
            checkpoint = Checkpoint(directory / CHECKPOINT)
            opened.begin(lambda: checkpoint.start(identity), lambda: checkpoint.verify(identity))
            if ranks.rank == 0:
                checkpoint.save_record(result.records[0])
                about = store.about
                model = ModelToTrain(about["hub_name"], result.config.max_length, about.get("chat_template"))
                finish_run(result, model, origin, reporter, watch)
            barrier(ranks)
    return result


def _about(store: str | Path) -> dict[str, str]:
    """A store for the record; the digest is that of its manifest, which lists the digests of all other files."""
    return {"path": str(Path(store).resolve()), "sha256": file_digest(Path(store) / MANIFEST)}


def _choose(store: GradientStore, config: RunConfig, progress: Progress, watch: Stopwatch, ranks: Ranks) -> RunResult:
    with watch.time("reading"):
        listing = store.listing
        given = open_given(config, store.identity, str(store.path), store.device)
        targets = open_targets(config, store.identity, store)
    with watch.time("selection"):
        record = choose_from_store(store, config, given, targets, progress, ranks)
    progress.note(f"{len(record.picks):,} picks; {store.bytes_read / 1e6:,.0f} MB of features were read")
    chosen, summary = store.chats(chosen_rows([record])), summarise(listing.lines, [record])
    return RunResult(config, listing, [*chosen], [record], summary, None, watch.seconds)


def _pick_config(store: GradientStore, options: dict[str, Any], progress: Progress) -> RunConfig:
    if options.get("method", "spice") not in FROM_STORE:
        raise ConfigError(
            f"method {options['method']}: pick chooses by {', '.join(FROM_STORE)}; for other methods use "
            "`spice-select run POOL --method ...`."
        )
    for key in options:
        if key in RunConfig.model_fields and key not in PICK_OPTIONS:
            raise ConfigError(
                f"{key} was set when the store was made; make another store with `spice-select gradients`."
            )
    kept = {key: value for key, value in store.config.items() if key not in PICK_OPTIONS or key == "seed"}
    preset = IMPLIED["preset"].get(str(options.get("preset")), {})
    chosen = {key: value for key, value in preset.items() if key in PICK_OPTIONS}
    warmed_up = store.features != "states"
    if warmed_up and any(kept.get(key) != value for key, value in preset.items() if key not in chosen):
        progress.note(f"preset {options['preset']}: the store's proxy was warmed up for {kept['warmup_steps']} steps")
    wanted = {key: value for key, value in options.items() if key != "preset" or not preset}
    usual = IMPLIED["method"].get(str(options.get("method")), {}).get("features", store.features)
    if usual != store.features:
        theirs, ours = NOUNS[usual], NOUNS[store.features]
        progress.note(f"{options['method']} compares {theirs}s in its paper; this store holds {ours}s")
    # All in one: what was set when the store was made is not for a method to imply.
    return resolve({}, {**kept, "candidates": "all", **chosen, **wanted}, "options")
