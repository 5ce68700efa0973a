"""The features of a choice among all rows: gradients of a frozen proxy, or states, of every row, stored once.

Any number of processes fill one store; `whole_pool` chooses from it. A store of given rows is opened here, too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spice_select.config import RunConfig
from spice_select.errors import ConfigError
from spice_select.files.records import differences
from spice_select.gradients.finite import RowFeatures
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.prepared import Prepared
from spice_select.progress import Progress
from spice_select.proxy.lora import Proxy, merge
from spice_select.row_tables import write_rows
from spice_select.schedule.bad_rows import bad_rows, stop_or_report
from spice_select.schedule.batching import with_batch_tokens
from spice_select.schedule.common_proxy import load_common_proxy
from spice_select.schedule.identity import POOL_KEYS, store_identity, store_shape
from spice_select.schedule.kinds import Kind, kind_of
from spice_select.stopwatch import Stopwatch
from spice_select.store.layout import Shape, identity_record, read_shard, shard_path
from spice_select.store.reading import GradientStore
from spice_select.store.writing import begin_store, compute_shards, finish_store, write_pool

ROW_TOO_LARGE = (
    "A single row does not fit: choose a lower --max-length or --dim, or another --model, and another --output."
)


def open_given(config: RunConfig, identity: Mapping[str, Any], of: str, device: torch.device) -> GradientStore | None:
    """The store of the rows that are in the training set already, if any. Raises as `refuse_incomparable`."""
    if config.given is None:
        return None
    return refuse_incomparable(GradientStore.open(config.given, device), identity, "given", of)


def refuse_incomparable(store: GradientStore, identity: Mapping[str, Any], option: str, of: str) -> GradientStore:
    """`store`, if its features are made like those of `identity`, proxies apart; else raises `ConfigError`."""
    theirs, ours = (
        {key: value for key, value in made.items() if key not in POOL_KEYS}
        for made in (store.identity, identity_record(identity))
    )
    if differing := differences(theirs, ours):
        raise ConfigError(
            f"{option} {store.path}: is not comparable with {of}: {differing}.\nUse the same options for both."
        )
    return store


def extract_features(
    prepared: Prepared,
    proxy: Proxy,
    store: Path,
    progress: Progress,
    watch: Stopwatch,
    proxy_of: GradientStore | None = None,
) -> None:
    """Fill `store` with the features of a pool's rows; shards that exist are not computed again.

    `proxy` is fresh, with seeded adapters; it is warmed up once for the store, then frozen. `proxy_of` is a store whose
    warmed-up proxy is used instead, so that the gradients of both can be compared. For states the model stays as it is.

    Raises:
        ConfigError: `proxy_of` does not serve this store.
        OutputError: the directory holds something else, or cannot be written.
        ModelError: out of memory; or a loss, gradient or state is not finite, and the options say to stop there.

    """
    pool, config = prepared.pool, prepared.config
    about = {
        "config": config.model_dump(),
        "model": prepared.about,
        "hub_name": prepared.hub_name,
        "chat_template": prepared.source.chat_template,
    }
    begin_store(store, store_identity(prepared), lambda place: write_pool(place, pool, about))
    sized = with_batch_tokens(proxy, config, pool.examples, store)
    dim, compute_rows = _ready(prepared, sized, store, progress, watch, proxy_of)
    shape = store_shape(prepared, dim)
    lengths: list[int] = pool.examples.tokens.tolist()
    _report_start(store, shape, lengths, progress)

    def compute(members: range) -> RowFeatures:
        """Features of one shard's rows; batches are cut inside it, so they never differ."""
        rows = [pool.examples[i] for i in members]
        batches = sized.batches([lengths[i] for i in members])

        def advance(batch: Sequence[int]) -> None:
            progress.advance(len(batch), sum(len(rows[i].input_ids) for i in batch))

        with explain_out_of_memory(ROW_TOO_LARGE):
            found = compute_rows(rows, batches, on_batch=advance)
        if config.on_bad_gradient == "stop":
            stop_or_report(bad_rows(rows, found.squared_norms, shape.noun), config, progress)  # before it is kept
        return found

    with watch.time(f"{shape.noun}s"):
        compute_shards(store, shape, compute, progress.note)
    marks = torch.cat([read_shard(store, shape, shard).squared_norms for shard in range(shape.shards)])
    stop_or_report(bad_rows(pool.examples, marks, shape.noun), config, progress)
    lines = pool.listing().lines
    finish_store(store, shape, lambda path, squares, losses: write_rows(path, lines, squares.sqrt(), losses))


def _ready(
    prepared: Prepared, proxy: Proxy, store: Path, progress: Progress, watch: Stopwatch, proxy_of: GradientStore | None
) -> Kind:
    """What computes the features of `store`, with the proxy as it stays."""
    if prepared.config.features == "states":
        return kind_of(proxy, prepared.config, {})
    with watch.time("proxy training"):
        moments = load_common_proxy(prepared.pool, prepared.config, proxy, store, progress, proxy_of)
    merge(proxy)
    return kind_of(proxy, prepared.config, moments)


def _report_start(store: Path, shape: Shape, lengths: Sequence[int], progress: Progress) -> None:
    """Report how many rows there are, and how many an earlier command computed."""
    progress.begin(f"{shape.noun}s", shape.rows, sum(lengths))
    done = [row for shard in range(shape.shards) if shard_path(store, shard).exists() for row in shape.members(shard)]
    if done:
        progress.resume(len(done), sum(lengths[row] for row in done))
        progress.note(f"resuming: {len(done):,} of {shape.rows:,} rows are done")
