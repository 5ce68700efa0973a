"""`compute_gradients`: the projected gradient, or the state, of every row of a pool, in a store for `pick`.

from spice_select import compute_gradients, pick
compute_gradients("pool.jsonl", output="store")
result = pick("store", budget="10%", output="chosen")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spice_select.config import RunConfig
from spice_select.distributed.process_group import barrier, process_group
from spice_select.distributed.shared_directory import check_shared
from spice_select.errors import ConfigError
from spice_select.pool.examples import PoolInput
from spice_select.pool.sources import as_list
from spice_select.prepared import Prepared, copied_once, merged_config, prepare, report_pool
from spice_select.progress import NoProgress, Progress
from spice_select.schedule.extraction import extract_features, refuse_incomparable
from spice_select.schedule.identity import FEATURE_KEYS, as_target, store_identity
from spice_select.stopwatch import Stopwatch
from spice_select.store.reading import GradientStore
from spice_select.store.writing import check_place

PICK_OPTIONS = (
    "budget", "method", "constants", "preset", "quota", "given", "exclude", "target", "target_rule", "target_share",
    "stop_coverage", "keep_target_rows", "penalty", "stop_ratio", "scale", "directions", "fisher_alpha",
    "fisher_alpha_mode", "seed", "device", "eval_share", "parquet",
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
    """Compute the projected gradient, or by `features` the state, of every row of `pools` into a store at `output`.

    A store that is not finished is completed.

    Several processes may do so at once, on several hosts if they share the directory: each computes shards that no
    other has.

    Args:
        pools: as for `select`.
        config: a validated configuration; or give its fields as keyword `options`.
        output: the store's directory. A store of the same pool and options is completed.
        proxy_of: a store whose warmed-up proxy is used, so that the two stores' gradients can be compared.
        progress: receives stages and finished rows.
        **options: fields of `RunConfig`; they take precedence over `config`.

    Raises:
        SpiceSelectError: a mistake that the user can correct; the message says how.

    """
    place, reporter = Path(output), progress or NoProgress()
    check_place(place)
    with process_group() as ranks:  # until the pool is read; then processes share shards, not messages
        check_shared(ranks, place)
        inputs = copied_once(as_list(pools), ranks)
        prepared, like = prepare_store(inputs, config, proxy_of, str(place), reporter, options)
        barrier(ranks)
    extract_features(prepared, prepared.proxy(reporter), place, reporter, Stopwatch(), like)
    return GradientStore.open(place, prepared.device)


def prepare_store(
    pools: PoolInput | Sequence[PoolInput],
    config: RunConfig | None,
    proxy_of: str | Path | None,
    name: str,
    progress: Progress,
    options: dict[str, Any],
) -> tuple[Prepared, GradientStore | None]:
    """The pool of a store `name` with its model found, and the store whose proxy it takes, if any.

    Raises as `compute_gradients`.
    """
    for key in options:
        if key in PICK_OPTIONS and key not in ("seed", "device"):
            raise ConfigError(f"{key} is an option of pick, not of the gradients; give it to `pick`.")
    like, inputs = None if proxy_of is None else GradientStore.open(proxy_of), as_list(pools)
    taken = {} if like is None else _options_of(like, {*options} | (config.model_fields_set if config else set()))
    merged = merged_config(config, {**taken, **options, "candidates": "all"})
    prepared = prepare(inputs, merged, progress)
    size = 2 * merged.dim * len(prepared.pool.examples) / 1e6
    purpose = "states are kept" if merged.features == "states" else f"the store takes about {size:,.1f} MB"
    report_pool(prepared.pool, merged, purpose, progress)
    if like is not None:
        identity = store_identity(prepared)
        if as_target(like.identity)["features"] == identity["features"]:
            identity["features"] = like.features
        refuse_incomparable(like, identity, "proxy_of", name)
    return prepared, like


def _options_of(store: GradientStore, given: set[str]) -> dict[str, Any]:
    """The options that features like those of `store` need, without those that are `given`."""
    of_model = set[str]() if "model" in given else {"model", "revision"}
    keys = {*of_model, "chat_template", *FEATURE_KEYS} - given
    return {key: value for key, value in store.config.items() if key in keys}
