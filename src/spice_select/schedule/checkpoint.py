"""A run's progress on disk, so that a killed run continues to the identical subset.

Layout of `<output>/checkpoint/`, format version 1:
    identity.json              what the run is: options, data and model hashes; a resumed run must be the same
    pool-000012.json           one finished candidate pool (`PoolRecord`)
    gram-000012.safetensors    its rows' unscaled gradients: their Gram matrix `gram` [m, m] float64
    texts.parquet              all rows with their texts, written at the end
    gradients/                 with pool_size all: a gradient store
    token_budget.json          tokens of a pass, where they were measured
    proxy-000003.safetensors   LoRA factors and AdamW moments at the start of cycle 3; metadata: optimizer steps
Every file appears whole or not at all. Only the newest proxy is kept.
"""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spice_select.errors import OutputError
from spice_select.output.atomic import write_bytes, write_text
from spice_select.output.directory import IDENTITY
from spice_select.output.records import PoolRecord
from spice_select.output.settings import differences

FORMAT_VERSION = 1

STORE = "gradients"
"""Where a run over all rows keeps its gradient store."""
TEXTS = "texts.parquet"
"""Where a run without a store keeps its rows with their texts."""


class Checkpoint:
    """The checkpoint directory of one run."""

    def __init__(self, directory: Path) -> None:
        """`directory` need not exist; `start` creates it."""
        self.directory = directory

    def start(self, identity: dict[str, Any]) -> None:
        """Begin a new run."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_text(self.directory / IDENTITY, _dump({"format_version": FORMAT_VERSION, **identity}))

    def verify(self, identity: dict[str, Any]) -> None:
        """Check that what is here belongs to the run that `identity` describes.

        Raises:
            OutputError: names what differs.

        """
        path = self.directory / IDENTITY
        saved = _read_json(path)
        wanted = json.loads(_dump({"format_version": FORMAT_VERSION, **identity}))
        differing = differences(saved, wanted)
        if differing:
            raise OutputError(
                f"{self.directory.parent}: the run to resume had other settings: {differing}.\n"
                "Give the same ones, or start afresh with --overwrite or another --output."
            )

    def records(self) -> dict[int, PoolRecord]:
        """The finished pools by index."""
        found: dict[int, PoolRecord] = {}
        for path in sorted(self.directory.glob("pool-*.json")):
            try:
                record = PoolRecord.from_json(_read_json(path))
            except (KeyError, TypeError) as error:
                raise OutputError(f"{path}: is not a pool record ({error}); start afresh with --overwrite.") from error
            found[record.pool] = record
        return found

    def save_record(self, record: PoolRecord) -> None:
        """Remember a finished pool."""
        write_text(self.directory / f"pool-{record.pool:06d}.json", _dump(record.to_json()))

    def save_gram(self, pool: int, gram: Tensor) -> None:
        """Remember the Gram matrix [m, m] that a pool was chosen from, so that the choice can be explained."""
        write_bytes(self.directory / gram_name(pool), save({"gram": gram.contiguous()}))

    def has_gram(self, pool: int) -> bool:
        """Whether a pool's Gram matrix is there."""
        return (self.directory / gram_name(pool)).exists()

    def gram(self, pool: int) -> Tensor | None:
        """What `save_gram` wrote; None where it is not there.

        Raises:
            OutputError: the file is damaged.

        """
        path = self.directory / gram_name(pool)
        if not path.exists():
            return None
        try:
            return load(path.read_bytes())["gram"]
        except (SafetensorError, KeyError, OSError) as error:
            raise OutputError(f"{path}: is damaged ({error}); delete it to go on without it.") from error

    def proxy_cycle(self) -> int | None:
        """The cycle whose starting proxy is saved, if any."""
        return max((cycle for cycle, _ in self._proxies()), default=None)

    def save_proxy(self, cycle: int, tensors: dict[str, Tensor], steps: int) -> None:
        """Save the proxy as it stands at the start of `cycle`, then drop older ones."""
        older = [path for _, path in self._proxies()]
        content = save({k: v.contiguous().cpu() for k, v in tensors.items()}, metadata={"steps": str(steps)})
        write_bytes(self.directory / f"proxy-{cycle:06d}.safetensors", content)
        for path in older:
            path.unlink(missing_ok=True)

    def load_proxy(self, cycle: int) -> tuple[dict[str, Tensor], int]:
        """Tensors and optimizer steps of the proxy saved for `cycle`.

        Raises:
            OutputError: the file is damaged.

        """
        path = self.directory / f"proxy-{cycle:06d}.safetensors"
        try:
            content = path.read_bytes()
            return load(content), _steps(content)
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise OutputError(f"{path}: is damaged ({error}); start afresh with --overwrite.") from error

    def drop_proxy(self) -> None:
        """The run is complete: only its records are still worth their place."""
        for _, path in self._proxies():
            path.unlink()

    def _proxies(self) -> list[tuple[int, Path]]:
        pattern = re.compile(r"proxy-(\d+)\.safetensors")
        matches = ((pattern.fullmatch(path.name), path) for path in self.directory.glob("proxy-*.safetensors"))
        return [(int(match[1]), path) for match, path in matches if match]


def gram_name(pool: int) -> str:
    """Name of a pool's Gram matrix."""
    return f"gram-{pool:06d}.safetensors"


def _steps(content: bytes) -> int:
    # A safetensors file opens with the header's length (8 bytes, little-endian) and the header, JSON.
    length = int.from_bytes(content[:8], "little")
    return int(json.loads(content[8 : 8 + length])["__metadata__"]["steps"])


def _dump(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be read ({error}); start afresh with --overwrite.") from error
