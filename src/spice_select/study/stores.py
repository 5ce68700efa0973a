"""The rows of a cell that chooses among all rows, for a target or without one: picked from stores that cells share.

stores/<digest of the options of features>/ in a study's directory holds
    pool/                               the gradient store of the pool
    <target>-<seed>-<rows>[@<part>]/    that of drawn rows of a target, by the pool's proxy
    <one of these>.cost.json            what it cost, added up over processes
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spice_select.api.gradients import PICK_OPTIONS, compute_gradients
from spice_select.api.pick import pick
from spice_select.choices import chosen_rows
from spice_select.config import RunConfig, resolve
from spice_select.progress import Progress
from spice_select.schedule.identity import FEATURE_KEYS, STATE_KEYS, as_target
from spice_select.store.layout import MANIFEST
from spice_select.store.reading import GradientStore
from spice_select.study.config import COMMON_KEYS
from spice_select.study.cost import Cost, adding_cost, cost_beside, cost_in, joined, measured
from spice_select.study.records import digest

STORES = "stores"
_NOT_TAKEN = {"target", "preset", "seed", "device"}
"""Options of `pick` that are given otherwise, have been resolved, or belong to the machine."""


def picked_from_stores(
    pool: list[str], config: RunConfig, proxy_seed: int, target_files: Sequence[Path], directory: Path,
    progress: Progress,
) -> tuple[list[int], Cost]:  # fmt: skip
    """Places of the picked rows in the pool, in its order, and the cost of features and choice, shared ones included.

    `config` holds the options of the cell; `target_files` the rows that it chooses for, if any.
    """
    deciding = STATE_KEYS if config.features == "states" else FEATURE_KEYS  # no seed decides a state
    own_seed = config.model_copy(update={"seed": proxy_seed})
    features: dict[str, Any] = {key: getattr(own_seed, key) for key in deciding}
    folder = directory / STORES / digest(features)
    made = {**config.model_dump(include=COMMON_KEYS - {"budget"}), **features, "seed": proxy_seed}
    store = _completed(folder / "pool", pool, made, None, progress)
    targets = [
        _completed(folder / file.stem, [str(file)], as_target(made), store.path, progress) for file in target_files
    ]
    given = config.model_fields_set & {*PICK_OPTIONS} - _NOT_TAKEN
    own: dict[str, Any] = {key: getattr(config, key) for key in sorted(given)}
    if targets:
        own["target"] = [str(target.path) for target in targets]
    own["seed"] = config.seed  # of draws
    with measured() as spent:
        result = pick(store.path, progress=progress, **own)
        picking = replace(spent(), seconds=result.seconds["selection"])
    spending = [picking, *(cost_in(cost_beside(one.path)) for one in (store, *targets))]
    return chosen_rows(result.records), joined(spending)


def _completed(
    place: Path, rows: list[str], options: dict[str, Any], proxy_of: Path | None, progress: Progress
) -> GradientStore:
    """The store at `place`, computed as far as it is missing, by any number of processes."""
    if not (place / MANIFEST).exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        config = resolve({}, options, "the study")
        with adding_cost(place):
            compute_gradients(rows, config, output=place, proxy_of=proxy_of, progress=progress)
    return GradientStore.open(place)
