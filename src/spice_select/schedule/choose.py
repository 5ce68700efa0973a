"""The choice of a run: by candidate pools, from a store of all rows, or by rank, as the options say."""

from spice_select.choices import PoolRecord
from spice_select.config import WITHOUT_GRADIENTS
from spice_select.files.directory import refuse_links
from spice_select.information.ranks import Ranks
from spice_select.prepared import Prepared
from spice_select.progress import Progress
from spice_select.proxy.lora import Proxy
from spice_select.schedule.candidate_pools import choose_in_candidate_pools
from spice_select.schedule.checkpoint import STORE, Checkpoint
from spice_select.schedule.extraction import extract_gradients
from spice_select.schedule.ranking import choose_by_rank
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
    if config.method in WITHOUT_GRADIENTS:
        with watch.time("selection"):
            return choose_by_rank(examples, config, proxy, checkpoint, progress)
    assert proxy is not None
    if config.pool_size != "all":
        return choose_in_candidate_pools(examples, budget, config, proxy, checkpoint, progress, watch, ranks)
    refuse_links(checkpoint.directory, STORE)
    place = checkpoint.directory / STORE
    extract_gradients(prepared, proxy, place, progress, watch, given)
    with watch.time("selection"):
        store = GradientStore.open(place, prepared.device)
        record = choose_from_store(store, config, given, progress, ranks)
    if ranks.rank == 0:
        checkpoint.save_record(record)
    return [record]
