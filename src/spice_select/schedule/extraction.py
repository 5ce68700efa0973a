"""The gradients of a choice among all rows: a frozen proxy, every row's gradient projected and stored once.

Any number of processes fill one store; `whole_pool` chooses from it. A store of given rows is opened here, too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spice_select.config import RunConfig
from spice_select.errors import ConfigError
from spice_select.files.locks import make_once
from spice_select.files.records import damage_reported, differences
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.gradients.projection import Projection, project_rows
from spice_select.pool.examples import Pool
from spice_select.prepared import Prepared
from spice_select.progress import Progress
from spice_select.proxy.lora import Proxy, merge
from spice_select.proxy.update import ProxyOptimizer
from spice_select.row_tables import write_rows
from spice_select.schedule.bad_rows import bad_rows, stop_or_report
from spice_select.schedule.batching import with_token_budget
from spice_select.schedule.identity import POOL_KEYS, store_identity, store_shape
from spice_select.schedule.proxy_training import warm_up
from spice_select.stopwatch import Stopwatch
from spice_select.store.layout import PROXY, Shape, identity_record, read_shard, shard_path
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
            f"{option} {store.path}: is not comparable with the gradients of {of}: {differing}.\n"
            "Use the same options for both."
        )
    return store


def extract_gradients(
    prepared: Prepared,
    proxy: Proxy,
    store: Path,
    progress: Progress,
    watch: Stopwatch,
    proxy_of: GradientStore | None = None,
) -> None:
    """Fill `store` with the projected gradients of a pool; shards that exist are not computed again.

    `proxy` is fresh, with seeded adapters; it is warmed up once for the store, then frozen. `proxy_of` is a store whose
    warmed-up proxy is used instead, so that the gradients of both can be compared.

    Raises:
        OutputError: the directory holds something else, or cannot be written.
        ModelError: out of memory; or a loss or gradient is not finite, and the options say to stop there.

    """
    pool, config, shape = prepared.pool, prepared.config, store_shape(prepared)
    about = {
        "config": config.model_dump(),
        "model": prepared.about,
        "hub_name": prepared.hub_name,
        "chat_template": prepared.source.chat_template,
    }
    begin_store(store, store_identity(prepared), lambda place: write_pool(place, pool, about))
    sized = with_token_budget(proxy, config, pool.examples, store)
    with watch.time("proxy training"):
        _load_common_proxy(pool, config, sized, store, progress, proxy_of)
    merge(proxy)
    projection = Projection(proxy.factors, config.dim, config.seed)
    lengths: list[int] = pool.examples.tokens.tolist()
    _report_start(store, shape, lengths, progress)

    def compute(members: range) -> tuple[Tensor, Tensor]:
        """Features and squared norms of one shard's rows; batches are cut inside it, so they never differ."""
        rows = [pool.examples[i] for i in members]
        batches = sized.batches([lengths[i] for i in members])

        def advance(batch: Sequence[int]) -> None:
            progress.advance(len(batch), sum(len(rows[i].input_ids) for i in batch))

        with explain_out_of_memory(ROW_TOO_LARGE):
            features, squared_norms = project_rows(proxy.model, proxy.layers, rows, batches, projection, advance)
        if config.on_bad_gradient == "stop":
            stop_or_report(bad_rows(rows, squared_norms), config, progress)  # before the shard is kept
        return features, squared_norms

    with watch.time("gradients"):
        compute_shards(store, shape, compute, progress.note)
    marks = torch.cat([read_shard(store, shape, shard)[1] for shard in range(shape.shards)])
    stop_or_report(bad_rows(pool.examples, marks), config, progress)
    lines = pool.listing().lines
    finish_store(store, shape, lambda path, squared_norms: write_rows(path, lines, torch.cat(squared_norms).sqrt()))


def _report_start(store: Path, shape: Shape, lengths: Sequence[int], progress: Progress) -> None:
    """Report how many rows there are, and how many an earlier command computed."""
    progress.begin("gradients", shape.rows, sum(lengths))
    done = [row for shard in range(shape.shards) if shard_path(store, shard).exists() for row in shape.members(shard)]
    if done:
        progress.resume(len(done), sum(lengths[row] for row in done))
        progress.note(f"resuming: {len(done):,} of {shape.rows:,} rows are done")


def _load_common_proxy(
    pool: Pool, config: RunConfig, proxy: Proxy, store: Path, progress: Progress, proxy_of: GradientStore | None
) -> None:
    def warmed_up() -> bytes:
        if proxy_of is not None:
            return proxy_bytes(proxy_of)
        optimizer = ProxyOptimizer(proxy, config.learning_rate, config.lr_warmup_steps)
        warm_up(optimizer, pool.examples, config, progress)
        return save({name: layer.weight.detach().cpu().contiguous() for name, layer in proxy.factors.items()})

    content = make_once(
        store / PROXY, warmed_up, lambda holder: progress.note(f"waiting for {PROXY}, which {holder} makes")
    )
    if proxy_of is not None and content != proxy_bytes(proxy_of):
        raise ConfigError(
            f"{store}: holds gradients of another proxy than that of {proxy_of.path}; choose another --output."
        )
    with damage_reported(store / PROXY, "Delete it and run the same command again.", SafetensorError):
        weights = load(content)
    with torch.no_grad():
        for name, layer in proxy.factors.items():
            layer.weight.copy_(weights[name])


def proxy_bytes(store: GradientStore) -> bytes:
    """The saved proxy that a store's gradients were computed with."""
    return (store.path / PROXY).read_bytes()
