"""The choice of a run: by candidate pools, from a store of all rows, or by rank, as the options say."""

from dataclasses import replace

from spice_select.choices import PoolRecord
from spice_select.files.directory import refuse_links
from spice_select.information.ranks import Ranks
from spice_select.option_values import TRAINING, WITHOUT_GRADIENTS
from spice_select.prepared import Prepared
from spice_select.progress import Progress
from spice_select.proxy.lora import Proxy
from spice_select.schedule.candidate_pools import choose_in_candidate_pools
from spice_select.schedule.checkpoint import STORE, Checkpoint, target_stores
from spice_select.schedule.extraction import extract_features
from spice_select.schedule.identity import as_target
from spice_select.schedule.lead import choose_by_lead
from spice_select.schedule.ranking import choose_by_rank
from spice_select.schedule.targets import target_weights
from spice_select.schedule.whole_pool import choose_from_store
from spice_select.stopwatch import Stopwatch
from spice_select.store.reading import GradientStore


def choose(
    prepared: Prepared,
    budget: int,
    proxy: Proxy | None,
    given: GradientStore | None,
    checkpoint: Checkpoint,
    progress: Progress,
    watch: Stopwatch,
    ranks: Ranks,
) -> list[PoolRecord]:
    """Choose `budget` rows of the pool; what `checkpoint` holds of it already is not computed again.

    `proxy` is fresh, with seeded adapters, or None for a method without a model; `given` is the store of the rows that
    are in the training set already. Returns one record per pool.
    """
    config, examples = prepared.config, prepared.pool.examples
    if config.method in TRAINING:
        assert proxy is not None
        return choose_by_lead(prepared, budget, proxy, checkpoint, progress, watch)
    if config.method in WITHOUT_GRADIENTS:
        with watch.time("selection"):
            return choose_by_rank(prepared, proxy, checkpoint, progress)
    assert proxy is not None
    if config.candidates != "all":
        rows = [example for target in prepared.targets for example in target.examples]
        weights = target_weights(config, [len(target.examples) for target in prepared.targets]) if rows else None
        return choose_in_candidate_pools(
            examples, budget, config, proxy, checkpoint, progress, watch, ranks, rows, weights
        )  # fmt: skip
    places = [checkpoint.directory / name for name in (STORE, *target_stores(len(prepared.targets)))]
    for place in places:
        refuse_links(checkpoint.directory, place.name)
    extract_features(prepared, proxy, places[0], progress, watch, given)
    store, targets = GradientStore.open(places[0], prepared.device), list[GradientStore]()
    aimed_at = config.model_copy(update={"features": as_target(store.identity)["features"]})
    for pool, place in zip(prepared.targets, places[1:], strict=True):
        extract_features(replace(prepared, pool=pool, config=aimed_at), proxy, place, progress, watch, store)
        targets.append(GradientStore.open(place, prepared.device))
    with watch.time("selection"):
        record = choose_from_store(store, config, given, targets, progress, ranks)
    if ranks.rank == 0:
        checkpoint.save_record(record)
    return [record]
