"""A finished store: rows by number from memory-mapped shards, lines, norms and texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from spice_select.errors import OutputError
from spice_select.files.records import damage_reported, file_digest, read_json
from spice_select.option_values import Features
from spice_select.pool.types import Listing, Rejection, SourceFile
from spice_select.row_tables import StoredChat, read_lines, read_texts
from spice_select.store import layout
from spice_select.store.layout import AGAIN, Shape


@dataclass(frozen=True, eq=False)
class GradientStore:
    """Features [n = rows, d = dim] of a pool, read to `device` when needed; `FeatureRows` for a selection.

    store = GradientStore.open("gradients")
    store.rows, store.dim, store.take(torch.tensor([5, 2]))
    """

    path: Path
    rows: int
    dim: int
    device: torch.device
    _shape: Shape
    _features: list[Tensor]
    _squared_norms: list[Tensor]
    _losses: list[Tensor]
    _read: list[int] = field(default_factory=lambda: [0])  # rows read so far

    @property
    def features(self) -> Features:
        """Of which kind they are."""
        return self._shape.features

    @property
    def noun(self) -> str:
        """What texts call a row's features, in the singular."""
        return self._shape.noun

    @property
    def bytes_read(self) -> int:
        """Bytes of features read through this object so far, two per dimension of a row."""
        return 2 * self.dim * self._read[0]

    @classmethod
    def open(cls, path: str | Path, device: torch.device | None = None) -> "GradientStore":
        """Open a finished store. No gradient is read yet, and only `check_store` compares checksums.

        Raises `OutputError` if it is no store, not finished, of another version, or a shard is missing or cut short.
        """
        store = Path(path)
        shape = layout.read_manifest(store).shape
        shards = [layout.read_shard(store, shape, shard) for shard in range(shape.shards)]
        place = torch.device("cpu") if device is None or device.type == "mps" else device  # mps has no float64
        extra = sum(1 for _ in (store / layout.SHARDS).glob("*.safetensors")) - shape.shards
        if extra:
            raise OutputError(f"{store}: holds {extra} shards that its manifest does not list; remove them.")
        features = [shard.features for shard in shards]
        squared_norms, losses = [shard.squared_norms for shard in shards], [shard.losses for shard in shards]
        return cls(store, shape.rows, shape.dim, place, shape, features, squared_norms, losses)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The settings that decided the features: model, LoRA, projection, data."""
        return read_json(self.path / layout.IDENTITY, AGAIN)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the store records of the pool and the model beside the rows."""
        return read_json(self.path / layout.POOL, AGAIN)

    @cached_property
    def listing(self) -> Listing:
        """The pool without its texts: a line for every row, and the inputs.

        Raises `OutputError` where a file is damaged, or there are not as many lines as gradients.
        """
        lines = read_lines(self.path / layout.ROWS, AGAIN)
        if len(lines) != self.rows:
            raise OutputError(f"{self.path}: has lines for {len(lines):,} rows and features of {self.rows:,}.\n{AGAIN}")
        with damage_reported(self.path / layout.POOL, AGAIN, KeyError, TypeError, ValueError, OverflowError):
            rejected = [Rejection(**item) for item in self.about["rejected"]]
            inputs = [SourceFile(**item) for item in self.about["inputs"]]
            return Listing(lines, rejected, inputs, int(self.about["truncated"]))

    @property
    def config(self) -> dict[str, Any]:
        """The options that the store was made with. Raises `OutputError` where it has none."""
        made = self.about.get("config")
        if not isinstance(made, dict):
            raise OutputError(f"{self.path}: pool.json has no config.\n{AGAIN}")
        return cast(dict[str, Any], made)

    def squared_norms(self) -> Tensor:
        """|g|^2 before projection, [n] float64."""
        return torch.cat(self._squared_norms).to(self.device)

    def losses(self) -> Tensor | None:
        """Mean NLL of the rows' responses, [n] float64 on the CPU; None for states."""
        return None if self.features == "states" else torch.cat(self._losses)

    def chats(self, rows: Sequence[int]) -> list[StoredChat]:
        """These rows with their texts, in this order."""
        return read_texts(self.path / layout.TEXTS, rows, AGAIN)

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
        size = self._shape.shard_rows
        shards = range(start // size, -(-stop // size))
        parts = [self._features[shard][max(start - shard * size, 0) : stop - shard * size] for shard in shards]
        return torch.cat([self._features[0][:0], *parts]).to(self.device).double()


def check_store(path: str | Path) -> list[str]:
    """Read a finished store whole and compare it with its checksums; nothing is changed.

    Returns what is wrong, a line for each file. Raises `OutputError` where there is no finished store, or a damaged
    manifest.
    """
    files = layout.read_manifest(Path(path)).files
    problems: list[str] = []
    for file, digest in files.items():
        if not file.exists():
            problems.append(f"{file}: is missing")
        elif file_digest(file) != digest:
            problems.append(f"{file}: is damaged (its checksum does not match the manifest)")
    there = sorted((Path(path) / layout.SHARDS).glob("*.safetensors"))
    return problems + [f"{file}: belongs to no shard of this store; remove it" for file in there if file not in files]
