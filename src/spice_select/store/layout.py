"""The gradient store's files and how rows are cut into shards. Format version 1; docs/store.md describes it for others.

identity.json             what every process that writes here must agree on
pool.json, pool.parquet   the pool: its inputs and what was left out; every usable row with its chat
proxy.safetensors         the proxy's LoRA factors, so that every process uses the very same
shards/000000.safetensors features [rows, d] and squared_norms [rows] of `shard_rows` rows (the last may hold fewer)
rows.parquet              a line for every row, norms included; written when all shards are there
manifest.json             checksums of all of these; written last, so it marks a complete store
.claims/                  locks of running processes
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from spice_select.errors import OutputError

FORMAT = "spice-select gradient store"
FORMAT_VERSION = 1
SHARD_ROWS, SHARD_ROWS_ON_GPU = 256, 2048
"""Rows of a shard: what a killed process can lose, and what processes deal out among themselves. Batches are cut inside
it, and a GPU's are larger: there a shard has up to so many, while enough shards are left to share."""

SHARDS_ON_GPU, BYTES_ON_GPU = 16, 1 << 28
"""Shards at least and float32 features at most of a shard, before it has more rows than on a CPU."""

IDENTITY, POOL, TEXTS, PROXY = "identity.json", "pool.json", "pool.parquet", "proxy.safetensors"
ROWS, MANIFEST, CLAIMS, SHARDS = "rows.parquet", "manifest.json", ".claims", "shards"

FILES = (IDENTITY, POOL, TEXTS, PROXY, ROWS)
"""What the manifest lists beside the shards."""

AGAIN = "Give the same `spice-select gradients` command again: it computes only what is missing or damaged."


def shard_rows(device: torch.device, rows: int, dim: int) -> int:
    """Rows of a shard when gradients of `rows` rows are computed on `device` and projected to `dim` numbers."""
    if device.type != "cuda":
        return SHARD_ROWS
    return max(SHARD_ROWS, min(SHARD_ROWS_ON_GPU, rows // SHARDS_ON_GPU, BYTES_ON_GPU // (4 * dim)))


@dataclass(frozen=True, slots=True)
class Shape:
    """How `rows` gradients of `dim` numbers are cut into shards."""

    rows: int
    dim: int
    shard_rows: int

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.rows // self.shard_rows)

    def members(self, shard: int) -> range:
        """The rows of one shard."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))


def finished_shape(store: Path) -> Shape:
    """The shape of a finished store.

    Raises:
        OutputError: it is no store, not finished, of another version, or its manifest is damaged.

    """
    if not (store / IDENTITY).exists():
        raise OutputError(
            f"{store}: is no gradient store; make one with `spice-select gradients POOL --output {store}`."
        )
    if not (store / MANIFEST).exists():
        raise OutputError(f"{store}: is not finished.\n{AGAIN}")
    manifest = read_json(store / MANIFEST)
    if manifest.get("format") != FORMAT or manifest.get("format_version") != FORMAT_VERSION:
        raise OutputError(
            f"{store / MANIFEST}: says {manifest.get('format')!r} version {manifest.get('format_version')!r}; "
            f"this program reads {FORMAT!r} version {FORMAT_VERSION}."
        )
    try:
        shape = Shape(int(manifest["rows"]), int(manifest["dim"]), int(manifest["shard_rows"]))
        if min(shape.rows, shape.dim, shape.shard_rows) < 1:
            raise ValueError("a number of it is below 1")
        if len(manifest["shards"]) != shape.shards:
            raise ValueError(f"{len(manifest['shards'])} shards for {shape.rows} rows")
        return shape
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise OutputError(f"{store / MANIFEST}: is damaged ({error}).\n{AGAIN}") from None


def shard_path(store: Path, shard: int) -> Path:
    """Where a shard lies."""
    return store / SHARDS / f"{shard:06d}.safetensors"


def shard_bytes(shape: Shape, shard: int, features: Tensor, squared_norms: Tensor, proxy: str) -> bytes:
    """A shard as a file: features in bfloat16, squared norms in float64, their checksum and that of the proxy."""
    tensors = {"features": features.bfloat16().contiguous(), "squared_norms": squared_norms.double().contiguous()}
    members = shape.members(shard)
    assert tensors["features"].shape == (len(members), shape.dim)
    about = {
        "format_version": FORMAT_VERSION, "first_row": members.start, "sha256": _digest(tensors), "proxy": proxy,
    }  # fmt: skip
    # One entry: safetensors writes several in any order, and a shard must come out the same bytes every time.
    return save(tensors, metadata={"shard": json.dumps(about)})


def read_shard(store: Path, shape: Shape, shard: int) -> tuple[Tensor, Tensor]:
    """Features [rows, d] and squared norms [rows] of a shard, mapped into memory, not read.

    Raises:
        OutputError: it is missing, cut short, or another shard's; its numbers are not looked at.

    """
    path, members = shard_path(store, shard), shape.members(shard)
    try:
        about, features, squares = _opened(path)
    except FileNotFoundError:
        raise OutputError(f"{path}: is missing.\n{AGAIN}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise OutputError(f"{path}: is damaged ({str(error).splitlines()[0]}).\n{AGAIN}") from None
    wanted = (len(members), shape.dim)
    if about.get("first_row") != members.start or features.shape != wanted or squares.shape != wanted[:1]:
        raise OutputError(f"{path}: holds other rows than its place says.\n{AGAIN}")
    if features.dtype != torch.bfloat16 or squares.dtype != torch.float64:
        raise OutputError(f"{path}: holds {features.dtype} and {squares.dtype}, not bfloat16 and float64.\n{AGAIN}")
    return features, squares


def verify_shard(store: Path, shape: Shape, shard: int, proxy: str) -> None:
    """Read a shard whole and compare it with the checksums that it carries.

    Raises:
        OutputError: as `read_shard`, or the numbers are not those that were written, or those of another proxy.

    """
    features, squares = read_shard(store, shape, shard)
    path = shard_path(store, shard)
    told = _opened(path)[0]
    if told.get("proxy") != proxy:
        raise OutputError(f"{path}: holds gradients of another proxy than {PROXY}.\n{AGAIN}")
    if _digest({"features": features, "squared_norms": squares}) != told.get("sha256"):
        raise OutputError(f"{path}: is damaged (its checksum does not match).\n{AGAIN}")


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        OutputError: it is none, or cannot be read.

    """
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{path}: cannot be read ({error}).\n{AGAIN}") from None
    if not isinstance(content, dict):
        raise OutputError(f"{path}: is not a JSON object.\n{AGAIN}")
    return cast(dict[str, Any], content)


def described(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as it is read back once it was written down."""
    return json.loads(as_json({"format": FORMAT, "format_version": FORMAT_VERSION, **identity}))


def as_json(content: dict[str, Any]) -> str:
    """JSON as this store writes it."""
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _opened(path: Path) -> tuple[dict[str, Any], Tensor, Tensor]:
    """What a shard says of itself, its features and its squared norms, mapped."""
    with cast(Any, safe_open(path, framework="pt")) as file:  # safetensors ships no annotations
        told = cast(dict[str, str], file.metadata() or {})
        return json.loads(told.get("shard", "{}")), file.get_tensor("features"), file.get_tensor("squared_norms")


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in ("features", "squared_norms"):
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
