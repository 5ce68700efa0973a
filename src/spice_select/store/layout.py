"""The gradient store's files and how rows are cut into shards. Format version 3; docs/store.md describes it for others.

identity.json             the settings that every process writing here must share
pool.json, pool.parquet   the pool: its inputs and the rows left out; every usable row with its chat
proxy.safetensors         the proxy's LoRA factors, so that every process uses the same; none for states
shards/000000.safetensors features [rows, d], squared_norms and losses [rows] of `shard_rows` rows (the last: fewer)
rows.parquet              one line per row, norms and losses included; written when all shards are there
manifest.json             checksums of all of these; written last, so it marks a complete store
.claims/                  locks of running processes
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from spice_select.errors import OutputError
from spice_select.files.records import damage_reported, read_json
from spice_select.gradients.finite import RowFeatures
from spice_select.option_values import NOUNS, Features

FORMAT = "spice-select gradient store"
FORMAT_VERSION = 3
SHARD_ROWS, SHARD_ROWS_ON_GPU = 256, 2048
"""Rows of a shard: what a killed process loses, and the unit of work that processes share."""
SHARDS_ON_GPU, BYTES_ON_GPU = 16, 1 << 28
"""A GPU's batches, which are cut inside a shard, are larger: there a shard has more rows if at least so many shards
remain to share, and its float32 features take at most so many bytes."""

IDENTITY, POOL, TEXTS, PROXY = "identity.json", "pool.json", "pool.parquet", "proxy.safetensors"
ROWS, MANIFEST, SHARDS = "rows.parquet", "manifest.json", "shards"

FILES = (IDENTITY, POOL, TEXTS, PROXY, ROWS)
"""The files that the manifest lists beside the shards; states have no proxy."""

AGAIN = "Delete what is damaged and run the command that made the store again: it computes only what is missing."


def shard_rows(device: torch.device, rows: int, dim: int) -> int:
    """Rows of a shard when gradients of `rows` rows are computed on `device` and projected to `dim` dimensions."""
    if device.type != "cuda":
        return SHARD_ROWS
    return max(SHARD_ROWS, min(SHARD_ROWS_ON_GPU, rows // SHARDS_ON_GPU, BYTES_ON_GPU // (4 * dim)))


@dataclass(frozen=True, slots=True)
class Shape:
    """What features of `rows` rows are, their dimensions, and how they are cut into shards."""

    rows: int
    dim: int
    shard_rows: int
    features: Features = "gradients"

    @property
    def noun(self) -> str:
        """What texts call a row's features, in the singular."""
        return NOUNS[self.features]

    @property
    def files(self) -> tuple[str, ...]:
        """The store's files beside its shards and the manifest."""
        return tuple(name for name in FILES if name != PROXY or self.features != "states")

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.rows // self.shard_rows)

    def members(self, shard: int) -> range:
        """The rows of one shard."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))


class Manifest(NamedTuple):
    """A finished store's shape, and the sha256 of each of its files."""

    shape: Shape
    files: dict[Path, str]


class Shard(NamedTuple):
    """Features [rows, d] bfloat16, squared norms and losses [rows] float64, and the record that a shard carries."""

    features: Tensor
    squared_norms: Tensor
    losses: Tensor
    record: dict[str, Any]


def read_manifest(store: Path) -> Manifest:
    """The manifest of a store; raises `OutputError` where it is missing, damaged or of another version."""
    path = store / MANIFEST
    if not (store / IDENTITY).exists():
        raise OutputError(
            f"{store}: is no gradient store; make one with `spice-select gradients POOL --output {store}`."
        )
    if not path.exists():
        raise OutputError(f"{store}: is not finished.\n{AGAIN}")
    content = read_json(path, AGAIN)
    with damage_reported(path, AGAIN, KeyError, TypeError, ValueError, OverflowError):
        if content["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        if content["format_version"] != FORMAT_VERSION:
            raise OutputError(
                f"{path}: has version {content['format_version']!r}; this program reads version {FORMAT_VERSION}.\n"
                "Compute it again into another directory."
            )
        if content["features"] not in get_args(Features):
            raise ValueError(f"its features are {content['features']!r}")
        shape = Shape(
            int(content["rows"]), int(content["dim"]), int(content["shard_rows"]), content["features"]
        )  # fmt: skip
        if min(shape.rows, shape.dim, shape.shard_rows) < 1:
            raise ValueError("rows, dim or shard_rows is below 1")
        if len(content["shards"]) != shape.shards:
            raise ValueError(f"{len(content['shards'])} shards for {shape.rows} rows")
        files = {store / name: str(content["files"][name]) for name in shape.files}
        shards = {shard_path(store, shard): digest for shard, digest in enumerate(content["shards"])}
        return Manifest(shape, files | shards)


def shard_path(store: Path, shard: int) -> Path:
    """Path of a shard."""
    return store / SHARDS / f"{shard:06d}.safetensors"


def shard_bytes(shape: Shape, shard: int, found: RowFeatures, proxy: str) -> bytes:
    """A shard as a file: features in bfloat16, the rest in float64, their checksum and that of the proxy."""
    tensors = {
        "features": found.features.bfloat16().contiguous(),
        "squared_norms": found.squared_norms.double().contiguous(),
        "losses": found.losses.double().contiguous(),
    }
    members = shape.members(shard)
    assert tensors["features"].shape == (len(members), shape.dim)
    record = {"format_version": FORMAT_VERSION, "first_row": members.start, "sha256": _digest(*tensors.values()),
              "proxy": proxy}  # fmt: skip
    # One entry: safetensors writes several in any order, and a shard must come out the same bytes every time.
    return save(tensors, metadata={"shard": json.dumps(record)})


def read_shard(store: Path, shape: Shape, shard: int) -> Shard:
    """A shard, mapped into memory, checksums not compared; raises `OutputError` if it is missing or another shard."""
    path, members = shard_path(store, shard), shape.members(shard)
    if not path.exists():
        raise OutputError(f"{path}: is missing.\n{AGAIN}")
    with (
        damage_reported(path, AGAIN, SafetensorError, OSError, ValueError),
        cast(Any, safe_open(path, framework="pt")) as file,  # safetensors ships no annotations
    ):
        metadata = cast(dict[str, str], file.metadata() or {})
        record = json.loads(metadata.get("shard", "{}"))
        features, squared_norms, losses = (file.get_tensor(name) for name in Shard._fields[:3])
    found = Shard(features, squared_norms, losses, record)
    rows = len(members)
    shapes = [tuple(tensor.shape) for tensor in found[:3]]
    if record.get("first_row") != members.start or shapes != [(rows, shape.dim), (rows,), (rows,)]:
        raise OutputError(f"{path}: does not hold the rows of this shard.\n{AGAIN}")
    types = [tensor.dtype for tensor in found[:3]]
    if types != [torch.bfloat16, torch.float64, torch.float64]:
        raise OutputError(f"{path}: holds {', '.join(map(str, types))}, not bfloat16 and float64.\n{AGAIN}")
    return found


def verify_shard(store: Path, shape: Shape, shard: int, proxy: str) -> None:
    """Compare a shard with its own checksums; raises `OutputError` where it is damaged or of another proxy."""
    found, path = read_shard(store, shape, shard), shard_path(store, shard)
    if found.record.get("proxy") != proxy:
        raise OutputError(f"{path}: holds gradients of another proxy than {PROXY}.\n{AGAIN}")
    if _digest(*found[:3]) != found.record.get("sha256"):
        raise OutputError(f"{path}: is damaged (its checksum does not match).\n{AGAIN}")


def identity_record(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as `identity.json` holds it."""
    return json.loads(json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **identity}))


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
