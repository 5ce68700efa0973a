"""Filling a store: shards are computed by whichever process claims them, published whole, and never twice.

    begin(store, identity, write_pool)      any number of processes, with the same identity
    work(store, shape, compute, note)       until every shard is there; takes over what dead processes left
    finish(store, shape, ...)               checksums, the table of rows, the manifest

Every file appears by one rename. The finished store is the same bytes however often it was interrupted and whoever
computed which shard.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from spice_select.errors import NoRoomError, OutputError
from spice_select.files.atomic import TEMPORARY_PATTERN, flush_directory, write_bytes, write_text
from spice_select.files.directory import ensure_writable, refuse_links
from spice_select.files.settings import differences
from spice_select.store.claims import claimed, holder_of, quietly
from spice_select.store.layout import (
    CLAIMS,
    FILES,
    FORMAT,
    FORMAT_VERSION,
    IDENTITY,
    MANIFEST,
    POOL,
    PROXY,
    ROWS,
    SHARDS,
    TEXTS,
    Shape,
    as_json,
    described,
    file_digest,
    finished_shape,
    read_json,
    read_shard,
    shard_bytes,
    shard_path,
    verify_shard,
)

Compute = Callable[[range], tuple[Tensor, Tensor]]
"""Features [rows, d] and squared norms [rows] of a range of rows."""

_PAUSE = 0.5  # seconds between two looks at what other processes do


def begin(
    store: Path, identity: dict[str, Any], write_pool: Callable[[Path], None], note: Callable[[str], None]
) -> None:
    """Make `store` the store of `identity`, or check that it is.

    Args:
        store: a directory that need not exist.
        identity: plain values; all that decides the features.
        write_pool: writes `pool.json` and `pool.parquet` into the directory, the first time.
        note: told about files of a finished store that are damaged and made again.

    Raises:
        OutputError: the directory is something else, or a store of other settings; the message names them.

    """
    check_place(store)
    ensure_writable(store)
    with claimed(store, "begin", wait=quietly):
        if not (store / IDENTITY).exists():
            (store / SHARDS).mkdir(exist_ok=True)
            write_pool(store)
            write_text(store / IDENTITY, as_json(described(identity)))
            return
        _refuse_others(store, identity)
        (store / SHARDS).mkdir(exist_ok=True)
        with claimed(store, "finish", wait=quietly):
            _drop_damaged_files(store, note)
        if not all((store / name).exists() for name in (POOL, TEXTS)):
            write_pool(store)


def _refuse_others(store: Path, identity: dict[str, Any]) -> None:
    try:
        saved = read_json(store / IDENTITY)
    except OutputError as error:
        first = str(error).splitlines()[0]
        raise OutputError(f"{first}\nWhat the store holds can no longer be told: choose another --output.") from None
    differing = differences(saved, described(identity))
    if differing:
        raise OutputError(
            f"{store}: holds gradients of other settings: {differing}.\nGive the same ones, or choose another --output."
        )


def _drop_damaged_files(store: Path, note: Callable[[str], None]) -> None:
    """Remove what a finished store's manifest has another checksum for; shards are looked at by `work`."""
    for name, digest in _listed_files(store, note).items():
        path = store / name
        if name != IDENTITY and path.exists() and file_digest(path) != digest:
            note(f"{path}: is damaged. Making it again.")
            path.unlink()
        if not path.exists():
            _unfinish(store)


def _listed_files(store: Path, note: Callable[[str], None]) -> dict[str, str]:
    """Names and checksums in the manifest of a finished store; one that cannot be used is removed."""
    if not (store / MANIFEST).exists():
        return {}
    try:
        finished_shape(store)
        files = read_json(store / MANIFEST)["files"]
        return {name: files[name] for name in FILES}
    except (OutputError, KeyError, TypeError) as error:
        note(f"{store / MANIFEST}: is damaged ({str(error).splitlines()[0][:80]}). Making it again.")
        _unfinish(store)
        return {}


def _unfinish(store: Path) -> None:
    (store / MANIFEST).unlink(missing_ok=True)
    flush_directory(store)  # a power cut must not bring it back when others of its files are gone
    (store / ROWS).unlink(missing_ok=True)


def check_place(store: Path) -> None:
    """Raise `OutputError` where `store` is a file, a directory of something else, or a folder of it is a link."""
    if store.exists() and not store.is_dir():
        raise OutputError(f"{store}: is a file; choose another --output.")
    refuse_links(store, CLAIMS, SHARDS)
    # One listing: another process may be making the store at this moment.
    there = [path for path in store.iterdir() if not path.match(TEMPORARY_PATTERN)] if store.is_dir() else []
    if IDENTITY not in [path.name for path in there]:
        foreign = [path.name for path in there if path.name not in {CLAIMS, SHARDS, POOL, TEXTS}]
        if foreign:
            raise OutputError(f"{store}: holds {foreign[0]}, which is no part of a store; choose another --output.")


def once(store: Path, name: str, make: Callable[[], bytes], note: Callable[[str], None]) -> bytes:
    """The content of a file that one process makes and every process uses; `note` is told who is waited for."""
    path = store / name
    with claimed(store, name, wait=lambda holder: note(f"waiting for {name}, which {holder} makes")):
        if not path.exists():
            write_bytes(path, make())
    return path.read_bytes()


def work(store: Path, shape: Shape, compute: Compute, note: Callable[[str], None]) -> None:
    """Compute shards that no other process has, until all are there; waits for those that others compute.

    A shard is written while the next one is computed.

    `note` is told about shards that were there but cannot be used and are computed again.

    Raises:
        OutputError: a shard cannot be written.

    """
    proxy = file_digest(store / PROXY)
    _sift(store, shape, proxy, note)
    with _Publisher(store, shape, proxy) as publisher:
        waiting = False
        while missing := publisher.missing():
            if any(publisher.make(shard, compute) for shard in missing):
                continue
            publisher.settle()  # its claim must not wait for those that others hold
            if not waiting:
                note(f"waiting for shard {missing[0]}, which {holder_of(store, claim_name(missing[0]))} computes")
            waiting = True
            time.sleep(_PAUSE)


def claim_name(shard: int) -> str:
    """Name of the claim on a shard."""
    return f"{shard:06d}"


def finish(store: Path, shape: Shape, write_rows: Callable[[Path, list[Tensor]], None]) -> None:
    """Write the table of rows and the manifest, unless another process did.

    `write_rows` writes `rows.parquet`, given the squared norms of every shard.
    """
    with claimed(store, "finish", wait=quietly):
        if (store / MANIFEST).exists():
            return
        write_rows(store / ROWS, [read_shard(store, shape, shard)[1] for shard in range(shape.shards)])
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "rows": shape.rows,
            "dim": shape.dim,
            "shard_rows": shape.shard_rows,
            "files": {name: file_digest(store / name) for name in FILES},
            "shards": [file_digest(shard_path(store, shard)) for shard in range(shape.shards)],
        }
        write_text(store / MANIFEST, as_json(manifest))


def _sift(store: Path, shape: Shape, proxy: str, note: Callable[[str], None]) -> None:
    """Remove shards that cannot be used; what a finished store says of itself goes with them."""
    with claimed(store, "sift", wait=quietly):
        for shard in range(shape.shards):
            path = shard_path(store, shard)
            try:
                if path.exists():
                    verify_shard(store, shape, shard, proxy)
            except OutputError as error:
                note(f"{str(error).splitlines()[0]} Computing it again.")
                path.unlink(missing_ok=True)
        with claimed(store, "finish", wait=quietly):
            if not all(shard_path(store, shard).exists() for shard in range(shape.shards)):
                _unfinish(store)


class _Publisher:
    """Computes shards here and writes them in a thread, one at a time; a shard is claimed until it is written."""

    def __init__(self, store: Path, shape: Shape, proxy: str) -> None:
        self._store, self._shape, self._proxy = store, shape, proxy
        self._writer = ThreadPoolExecutor(1)
        self._writing: tuple[int, Future[None], ExitStack] | None = None

    def __enter__(self) -> "_Publisher":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.settle()
        finally:
            self._writer.shutdown()

    def missing(self) -> list[int]:
        """Shards that are neither there nor being written here."""
        mine = -1 if self._writing is None else self._writing[0]
        shards = range(self._shape.shards)
        return [shard for shard in shards if shard != mine and not shard_path(self._store, shard).exists()]

    def make(self, shard: int, compute: Compute) -> bool:
        """Compute a shard and begin to write it; False where another process has it or made it."""
        with ExitStack() as claim:
            mine = claim.enter_context(claimed(self._store, claim_name(shard), wait=None))
            if not mine or shard_path(self._store, shard).exists():
                return False
            features, squares = compute(self._shape.members(shard))
            self.settle()
            written = self._writer.submit(_publish, self._store, self._shape, shard, features, squares, self._proxy)
            self._writing = (shard, written, claim.pop_all())
        return True

    def settle(self) -> None:
        """Wait for the shard that is being written; raises what writing it raised."""
        if self._writing is not None:
            _, written, claim = self._writing
            self._writing = None
            with claim:
                written.result()


def _publish(store: Path, shape: Shape, shard: int, features: Tensor, squares: Tensor, proxy: str) -> None:
    content = shard_bytes(shape, shard, features, squares, proxy)
    path = shard_path(store, shard)
    try:
        write_bytes(path, content)
    except NoRoomError as error:
        left = (shape.shards - sum(1 for _ in (store / SHARDS).glob("*.safetensors"))) * len(content)
        raise NoRoomError(f"{error}\nThe shards that are left need about {left / 1e6:,.0f} MB.") from error
