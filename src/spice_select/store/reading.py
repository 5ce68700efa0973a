"""A finished store: rows by number from memory-mapped shards, lines, norms and texts.

store = GradientStore.open("gradients")
store.rows, store.dim, store.take(torch.tensor([5, 2]))
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from spice_select.errors import OutputError
from spice_select.pool.types import Listing
from spice_select.store.layout import (
    AGAIN,
    FILES,
    IDENTITY,
    MANIFEST,
    POOL,
    Shape,
    file_digest,
    finished_shape,
    read_json,
    read_shard,
    shard_path,
)
from spice_select.store.tables import StoredChat, read_chats, read_listing


@dataclass(frozen=True, eq=False)
class GradientStore:
    """Projected gradients [n, d] of a pool, read as they are needed; `FeatureRows` for a selection.

    Attributes:
        path: the directory.
        rows: n.
        dim: d.
        device: where rows are put when read.

    """

    path: Path
    rows: int
    dim: int
    device: torch.device
    _shape: Shape
    _features: list[Tensor]
    _squares: list[Tensor]
    _read: list[int] = field(default_factory=lambda: [0])  # rows read so far

    @property
    def bytes_read(self) -> int:
        """Bytes of features read through this object so far, two a number."""
        return 2 * self.dim * self._read[0]

    @classmethod
    def open(cls, path: str | Path, device: torch.device | None = None) -> "GradientStore":
        """Open a finished store; no gradient is read yet, and `check_store` alone looks at every number.

        Raises:
            OutputError: it is no store, not finished, of another version, or a shard is missing or cut short.

        """
        store = Path(path)
        shape = finished_shape(store)
        shards = [read_shard(store, shape, shard) for shard in range(shape.shards)]
        place = torch.device("cpu") if device is None or device.type == "mps" else device  # mps has no float64
        extra = sum(1 for _ in shard_path(store, 0).parent.glob("*.safetensors")) - shape.shards
        if extra:
            raise OutputError(f"{store}: holds {extra} shards more than its manifest says; remove them.")
        features, squares = [shard[0] for shard in shards], [shard[1] for shard in shards]
        return cls(store, shape.rows, shape.dim, place, shape, features, squares)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decided the features: model, LoRA, projection, data."""
        return read_json(self.path / IDENTITY)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What was written down of the pool beside its rows."""
        return read_json(self.path / POOL)

    @cached_property
    def listing(self) -> Listing:
        """A line for every row, and the inputs."""
        found = read_listing(self.path)
        if len(found.lines) != self.rows:
            raise OutputError(
                f"{self.path}: has lines for {len(found.lines):,} rows and gradients of {self.rows:,}.\n{AGAIN}"
            )
        return found

    def squared_norms(self) -> Tensor:
        """|g|^2 before projection, [n] float64."""
        return torch.cat(self._squares).to(self.device)

    def chats(self, rows: Sequence[int]) -> list[StoredChat]:
        """These rows with their texts, in this order."""
        return read_chats(self.path, rows)

    def take(self, rows: Tensor) -> Tensor:
        """The rows with these numbers [b], in this order: [b, d] float64."""
        self._read[0] += len(rows)
        result = torch.empty(len(rows), self.dim, dtype=torch.bfloat16)
        for place, row in enumerate(cast(list[int], rows.tolist())):
            shard, member = divmod(row, self._shape.shard_rows)
            result[place] = self._features[shard][member]
        return result.to(self.device).double()

    def block(self, start: int, stop: int) -> Tensor:
        """Rows start to stop: [stop - start, d] float64."""
        self._read[0] += stop - start
        parts = [self._features[shard][first:last] for shard, first, last in self._pieces(start, stop)]
        return torch.cat(parts).to(self.device).double()

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        size = self._shape.shard_rows
        for shard in range(start // size, -(-stop // size)):
            yield shard, max(start - shard * size, 0), min(stop - shard * size, size)


def check_store(path: str | Path) -> list[str]:
    """Read a finished store whole and compare it with its checksums.

    Returns:
        What is wrong, a line for each file; empty where all is well.

    Raises:
        OutputError: it is no finished store.

    """
    store = Path(path)
    finished_shape(store)
    manifest = read_json(store / MANIFEST)
    try:
        wanted = {store / name: str(manifest["files"][name]) for name in FILES}
    except (KeyError, TypeError):
        return [f"{store / MANIFEST}: is damaged (it lacks the checksum of a file)"]
    wanted |= {shard_path(store, shard): digest for shard, digest in enumerate(manifest["shards"])}
    problems: list[str] = []
    for file, digest in wanted.items():
        if not file.exists():
            problems.append(f"{file}: is missing")
        elif file_digest(file) != digest:
            problems.append(f"{file}: is damaged (its checksum does not match the manifest)")
    there = sorted(shard_path(store, 0).parent.glob("*.safetensors"))
    return problems + [f"{file}: belongs to no shard of this store; remove it" for file in there if file not in wanted]
