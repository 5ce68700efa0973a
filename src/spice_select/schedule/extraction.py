"""The one-shot form: a frozen proxy, every row's gradient projected and stored once, one choice among all rows.

extract(...)      gradients of a pool into a store; any number of processes at once
`choose_from_store` makes the choice.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spice_select.config import RunConfig
from spice_select.distributed.launch import is_main_process, process_count
from spice_select.errors import ConfigError, OutputError
from spice_select.files.locks import make_once
from spice_select.files.records import differences
from spice_select.files.versions import decisive_versions
from spice_select.gradients.projection import METHOD, Projection, project_rows
from spice_select.pool.examples import Pool
from spice_select.prepared import Prepared
from spice_select.progress import Progress
from spice_select.proxy.lora import Proxy, merge
from spice_select.proxy.update import ProxyOptimizer
from spice_select.row_tables import write_rows
from spice_select.schedule.bad_rows import bad_rows, settle
from spice_select.schedule.batching import with_token_budget
from spice_select.schedule.candidate_pools import memory_advice, warm_up
from spice_select.schedule.forecast import WORTH, forecast_store
from spice_select.stopwatch import Stopwatch
from spice_select.store.layout import PROXY, Shape, identity_record, read_shard, shard_path, shard_rows
from spice_select.store.reading import GradientStore
from spice_select.store.writing import compute_shards, finish_store, prepare_store, write_pool

STORE_ADVICE = "A row alone is too much: lower --max-length or --dim, or use another --model, into another --output."

FEATURE_KEYS = (
    "dtype", "lora_rank", "lora_alpha", "layers", "seed", "warmup_steps", "learning_rate", "lr_warmup_steps",
    "update_batch_size", "max_length", "token_budget", "dim",
)  # fmt: skip
"""Options that decide a row's features."""

_OF_THE_POOL = ("data", "rows", "format", "columns", "shard_rows")
"""What two stores may differ in and still hold comparable features."""


def _shape(prepared: Prepared) -> Shape:
    rows, dim = len(prepared.pool.examples), prepared.config.dim
    return Shape(rows, dim, shard_rows(prepared.device, rows, dim))


def store_identity(prepared: Prepared) -> dict[str, Any]:
    """All that decides the content of a store."""
    config, model = prepared.config, prepared.about
    return {
        **{key: getattr(config, key) for key in FEATURE_KEYS},
        "projection": METHOD,
        "shard_rows": _shape(prepared).shard_rows,
        "weights": model["fingerprint"],
        "device": model["device"],
        "versions": decisive_versions(),
        "rows": len(prepared.pool.examples),
        "data": [file.sha256 for file in prepared.pool.files],
        "format": config.format,
        "columns": config.columns,
    }


def _about_store(prepared: Prepared) -> dict[str, Any]:
    """What picking from a store must know beside its rows."""
    return {
        "config": prepared.config.model_dump(),
        "model": prepared.about,
        "hub_name": prepared.hub_name,
        "end_of_turn": prepared.end_of_turn,
    }


def open_given(config: RunConfig, identity: Mapping[str, Any], of: str, device: torch.device) -> GradientStore | None:
    """The store of the rows that are in the training set already; it must be comparable with one of `identity`.

    Raises:
        ConfigError: its features were made in another way than those `of` the pool.

    """
    if config.given is None:
        return None
    return refuse_incomparable(GradientStore.open(config.given, device), identity, "given", of)


def refuse_incomparable(store: GradientStore, identity: Mapping[str, Any], option: str, of: str) -> GradientStore:
    """`store`, if its features are made as those of a store of `identity`, proxies apart."""
    ours, theirs = identity_record(identity), store.identity
    of_features = [{key: told[key] for key in told if key not in _OF_THE_POOL} for told in (theirs, ours)]
    differing = differences(*of_features)
    if differing:
        raise ConfigError(
            f"{option} {store.path}: cannot be compared with the gradients of {of}: {differing}.\n"
            "Give the same options to both."
        )
    return store


def extract(
    prepared: Prepared,
    proxy: Proxy,
    store: Path,
    progress: Progress,
    watch: Stopwatch,
    proxy_of: GradientStore | None = None,
) -> None:
    """Fill `store` with the projected gradients of a pool; what is there already is not computed again.

    Args:
        prepared: the pool and the options.
        proxy: fresh, with seeded adapters; it is warmed up once for the store, then frozen.
        store: directory of the store.
        progress: told about rows.
        watch: told where the time goes.
        proxy_of: a store whose warmed-up proxy is used, so that the gradients can be compared with its own.

    Raises:
        OutputError: the directory holds something else, or cannot be written.
        ModelError: out of memory; or a loss or gradient is not finite, and the options say to stop there.

    """
    pool, config = prepared.pool, prepared.config
    shape = _shape(prepared)
    about = _about_store(prepared)
    prepare_store(store, store_identity(prepared), lambda place: write_pool(place, pool, about))
    sized = with_token_budget(proxy, config, pool.examples, store)
    with watch.time("proxy training"):
        _use_same_proxy(pool, config, sized, store, progress, proxy_of)
    merge(proxy)
    projection = Projection(proxy.factors, config.dim, config.seed)
    lengths: list[int] = pool.examples.tokens.tolist()
    progress.begin("gradients", shape.rows, sum(lengths))
    done = [row for shard in range(shape.shards) if shard_path(store, shard).exists() for row in shape.members(shard)]
    if done:
        progress.resume(len(done), sum(lengths[row] for row in done))
        progress.note(f"resuming: {len(done):,} of {shape.rows:,} rows are done")

    def compute(members: range) -> tuple[Tensor, Tensor]:
        """Features and squared norms of one shard's rows; batches are cut inside it, so they never differ."""
        rows = [pool.examples[i] for i in members]
        batches = sized.batches([lengths[i] for i in members])

        def report(batch: Sequence[int]) -> None:
            progress.advance(len(batch), sum(len(rows[i].input_ids) for i in batch))

        with memory_advice(STORE_ADVICE):
            features, squares = project_rows(proxy.model, proxy.layers, rows, batches, projection, report)
        if config.on_bad_gradient == "stop":
            settle(bad_rows(rows, squares), config, progress)  # before the shard is kept
        return features, squares

    finished = set(done)
    missing = [row for row in range(shape.rows) if row not in finished]
    if missing and is_main_process():
        with memory_advice(STORE_ADVICE), watch.time("forecast"):
            forecast = forecast_store(pool.examples, missing, config, sized, projection, process_count(), WORTH)
        progress.note("\n".join(forecast.lines()))
    with watch.time("gradients"):
        compute_shards(store, shape, compute, progress.note)
    marks = torch.cat([read_shard(store, shape, shard)[1] for shard in range(shape.shards)])
    settle(bad_rows(pool.examples, marks), config, progress)
    lines = pool.listing().lines
    finish_store(store, shape, lambda path, squares: write_rows(path, lines, torch.cat(squares).sqrt()))


def _use_same_proxy(
    pool: Pool, config: RunConfig, proxy: Proxy, store: Path, progress: Progress, proxy_of: GradientStore | None
) -> None:
    def warmed() -> bytes:
        if proxy_of is not None:
            return proxy_bytes(proxy_of)
        optimizer = ProxyOptimizer.create(proxy, config.learning_rate, config.lr_warmup_steps)
        warm_up(optimizer, pool.examples, config, progress)
        return save({name: layer.weight.detach().cpu().contiguous() for name, layer in proxy.factors.items()})

    def on_wait(holder: str) -> None:
        progress.note(f"waiting for {PROXY}, which {holder} makes")

    content = make_once(store / PROXY, warmed, on_wait)
    if proxy_of is not None and content != proxy_bytes(proxy_of):
        raise ConfigError(
            f"{store}: already holds gradients of another proxy than that of {proxy_of.path}; choose another --output."
        )
    try:
        weights = load(content)
    except SafetensorError as error:
        raise OutputError(
            f"{store / PROXY}: is damaged ({error}).\nDelete it and give the same command again."
        ) from None
    with torch.no_grad():
        for name, layer in proxy.factors.items():
            layer.weight.copy_(weights[name])


def proxy_bytes(store: GradientStore) -> bytes:
    """What pins the proxy that a store's gradients were computed with."""
    return (store.path / PROXY).read_bytes()
