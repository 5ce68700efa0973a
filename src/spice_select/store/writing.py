"""Filling a store: each shard is computed by the process that claims it, and written whole.

    begin_store(store, identity, write_pool)      any number of processes, with the same identity
    compute_shards(store, shape, compute, note)   until every shard is there; takes over what dead processes left
    finish_store(store, shape, write_rows)        the table of rows, then the manifest with the checksums

Every file appears by one rename. The finished store is the same bytes however often it was interrupted and whichever
process computed which shard. A damaged file is an error that names it: nothing is deleted or computed in its place.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spice_select.errors import NoRoomError, OutputError
from spice_select.files.atomic import TEMPORARY_PATTERN, flush_directory, write_bytes
from spice_select.files.directory import ensure_writable, refuse_links
from spice_select.files.locks import CLAIMS, claimed
from spice_select.files.records import differences, file_digest, read_json, write_json
from spice_select.gradients.finite import RowFeatures
from spice_select.pool.examples import Pool
from spice_select.row_tables import plain_json, write_texts
from spice_select.store import layout
from spice_select.store.layout import AGAIN, Shape

Compute = Callable[[range], RowFeatures]
"""What is stored of a range of rows."""


def check_place(store: Path) -> None:
    """Raise `OutputError` where `store` is a file or a directory of something else, or a folder of it is a link."""
    if store.exists() and not store.is_dir():
        raise OutputError(f"{store}: is a file; choose another --output.")
    refuse_links(store, CLAIMS, layout.SHARDS)
    # One listing: another process may be making the store at this moment.
    there = store.iterdir() if store.is_dir() else ()
    names = {path.name for path in there if not path.match(TEMPORARY_PATTERN)}
    foreign = sorted(names - {CLAIMS, layout.SHARDS, layout.POOL, layout.TEXTS})
    if foreign and layout.IDENTITY not in names:
        raise OutputError(f"{store}: holds {foreign[0]}, which is no part of a store; choose another --output.")


def begin_store(store: Path, identity: dict[str, Any], write_pool: Callable[[Path], None]) -> None:
    """Make `store`, which need not exist, the store of `identity`, or check that it is.

    `write_pool` writes `pool.json` and `pool.parquet` into the directory. Raises `OutputError` where the directory is
    something else, a store of other settings, or damaged.
    """
    check_place(store)
    ensure_writable(store)
    with claimed(store, "begin"):
        begun = (store / layout.IDENTITY).exists()
        if begun:
            _refuse_other_settings(store, identity)
            with claimed(store, "finish"):
                _reopen(store)
        (store / layout.SHARDS).mkdir(exist_ok=True)
        if not begun or not all((store / name).exists() for name in (layout.POOL, layout.TEXTS)):
            write_pool(store)
        if not begun:
            write_json(store / layout.IDENTITY, layout.identity_record(identity))


def write_pool(store: Path, pool: Pool, about: dict[str, Any]) -> None:
    """Write `pool.parquet` and `pool.json`; `about` holds further plain values for the latter."""
    write_texts(store / layout.TEXTS, pool.examples)
    inputs = [asdict(file) for file in pool.files]
    rejected = [json.loads(plain_json(asdict(item))) for item in pool.rejected]
    write_json(store / layout.POOL, {**about, "truncated": pool.truncated, "inputs": inputs, "rejected": rejected})


def compute_shards(store: Path, shape: Shape, compute: Compute, note: Callable[[str], None]) -> None:
    """Compute the shards that are missing and that no other process computes; wait for the others.

    The store is prepared and has its proxy; `note` receives what this process waits for. Raises `OutputError` where a
    shard is damaged or cannot be written.
    """
    proxy = file_digest(store / layout.PROXY) if layout.PROXY in shape.files else ""
    for shard in range(shape.shards):
        if layout.shard_path(store, shard).exists():
            layout.verify_shard(store, shape, shard, proxy)

    def make(shard: int, *, wait: bool) -> bool:
        waiting = f"waiting for shard {shard}, which {{}} computes"
        with claimed(store, f"{shard:06d}", wait=wait, on_wait=lambda holder: note(waiting.format(holder))) as held:
            mine = held and not layout.shard_path(store, shard).exists()
            if mine:
                _write_shard(store, shape, shard, compute(shape.members(shard)), proxy)
        return mine

    while missing := [shard for shard in range(shape.shards) if not layout.shard_path(store, shard).exists()]:
        if sum(make(shard, wait=False) for shard in missing) == 0:
            make(missing[0], wait=True)


def finish_store(store: Path, shape: Shape, write_rows: Callable[[Path, Tensor, Tensor], None]) -> None:
    """Write the table of rows and the manifest, unless another process did.

    `write_rows` writes `rows.parquet`, given the rows' squared norms [n] and losses [n].
    """
    with claimed(store, "finish"):
        if (store / layout.MANIFEST).exists():
            return
        shards = [layout.read_shard(store, shape, shard) for shard in range(shape.shards)]
        squared_norms, losses = torch.cat([s.squared_norms for s in shards]), torch.cat([s.losses for s in shards])
        write_rows(store / layout.ROWS, squared_norms, losses)
        files = {name: file_digest(store / name) for name in shape.files}
        digests = [file_digest(layout.shard_path(store, shard)) for shard in range(shape.shards)]
        about = {"format": layout.FORMAT, "format_version": layout.FORMAT_VERSION, **asdict(shape)}
        write_json(store / layout.MANIFEST, {**about, "files": files, "shards": digests})


def _refuse_other_settings(store: Path, identity: dict[str, Any]) -> None:
    lost = "Without it nothing says what the gradients are of: choose another --output."
    if differing := differences(read_json(store / layout.IDENTITY, lost), layout.identity_record(identity)):
        raise OutputError(
            f"{store}: holds features of other settings: {differing}.\nUse the same ones, or choose another --output."
        )


def _reopen(store: Path) -> None:
    """Make a finished store that lacks a file an unfinished one; a damaged file, shards apart, is an error."""
    if not (store / layout.MANIFEST).exists():
        return
    shape, files = layout.read_manifest(store)
    for path in (store / name for name in shape.files if name != layout.IDENTITY):
        if path.exists() and file_digest(path) != files[path]:
            raise OutputError(f"{path}: is damaged (its checksum does not match the manifest).\n{AGAIN}")
    if not all(path.exists() for path in files):
        (store / layout.MANIFEST).unlink()
        flush_directory(store)  # a power cut must not bring it back


def _write_shard(store: Path, shape: Shape, shard: int, found: RowFeatures, proxy: str) -> None:
    content = layout.shard_bytes(shape, shard, found, proxy)
    try:
        write_bytes(layout.shard_path(store, shard), content)
    except NoRoomError as error:
        left = (shape.shards - sum(1 for _ in (store / layout.SHARDS).glob("*.safetensors"))) * len(content)
        raise NoRoomError(f"{error}\nThe shards that are left need about {left / 1e6:,.0f} MB.") from error
