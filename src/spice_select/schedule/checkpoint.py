"""A run's progress on disk, so that a killed run continues to the identical subset.

Layout of `<output>/checkpoint/`, format version 1:
    identity.json              what the run is: options, data and model hashes; a resumed run must be the same
    pool-000012.json           one finished candidate pool (`PoolRecord`), and a digest of the run it belongs to
    gram-000012.safetensors    its rows' unscaled gradients: their Gram matrix `gram` [m, m] float64
    texts.parquet              all rows with their texts, written at the end
    gradients/                 with pool_size all: a gradient store
    token_budget.json          tokens of a pass, where they were measured
    proxy-000003.safetensors   LoRA factors and AdamW moments at the start of cycle 3; metadata: optimizer steps
Every file appears whole or not at all. Only the newest proxy is kept.
"""

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spice_select.choices import PoolRecord
from spice_select.errors import OutputError
from spice_select.files.atomic import write_bytes, write_text
from spice_select.files.directory import IDENTITY
from spice_select.files.records import differences

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
        self._known = ""

    def start(self, identity: dict[str, Any]) -> None:
        """Begin a new run."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_text(self.directory / IDENTITY, _dump({"format_version": FORMAT_VERSION, **identity}))
        self._run()

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
        self._run()

    def records(self) -> dict[int, PoolRecord]:
        """The finished pools by index."""
        found: dict[int, PoolRecord] = {}
        own = self._run()
        for path in sorted(self.directory.glob("pool-*.json")):
            try:
                content = _read_json(path)
                if content.pop("run", own) != own:
                    continue  # of a process that outlived the run which was here before
                record = _sound(PoolRecord.from_json(content))
            except (KeyError, TypeError, ValueError) as error:
                raise OutputError(f"{path}: is not a pool record ({error}); start afresh with --overwrite.") from error
            found[record.pool] = record
        return found

    def save_record(self, record: PoolRecord) -> None:
        """Remember a finished pool."""
        write_text(self.directory / record_name(record.pool), _dump({"run": self._run(), **record.to_json()}))

    def _run(self) -> str:
        """What tells this run's records from those of another with other settings.

        It is looked up once: where another run has begun here since, this process writes nothing that is taken for its.
        """
        if not self._known:
            identity = _dump(_read_json(self.directory / IDENTITY))
            self._known = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self._known

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


def record_name(pool: int) -> str:
    """Name of a pool's record."""
    return f"pool-{pool:06d}.json"


def gram_name(pool: int) -> str:
    """Name of a pool's Gram matrix."""
    return f"gram-{pool:06d}.safetensors"


def _steps(content: bytes) -> int:
    # A safetensors file opens with the header's length (8 bytes, little-endian) and the header, JSON.
    length = int.from_bytes(content[:8], "little")
    return int(json.loads(content[8 : 8 + length])["__metadata__"]["steps"])


def _dump(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False)


def _sound(record: PoolRecord) -> PoolRecord:
    """The record, if its parts fit each other.

    Raises:
        ValueError: they do not; what a file says is not what a program wrote there.

    """
    if not isinstance(record.pool, int) or record.pool < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError("its pool is no number")
    for name, numbers, end in (("rows", record.rows, None), ("picks", record.picks, len(record.rows))):
        whole = isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not whole or len(set(numbers)) < len(numbers) or (end is not None and max(numbers, default=-1) >= end):
            raise ValueError(f"its {name} are no places")
    for name, values in (asdict(record.measures) if record.measures else {}).items():
        if not _fits(values, len(record.rows), text=name == "bound_source"):
            raise ValueError(f"its {name} cannot be")
    return record


def _fits(values: object, rows: int, *, text: bool) -> bool:
    """Whether a measure is a number, a number for every row, or the one that is a text."""
    if text:
        return isinstance(values, str)
    if not isinstance(values, list):
        return isinstance(values, float | int)
    numbers = cast("list[object]", values)
    return len(numbers) == rows and all(isinstance(number, float | int) for number in numbers)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{path}: cannot be read ({error}); start afresh with --overwrite.") from error
    if not isinstance(content, dict):
        raise OutputError(f"{path}: is no JSON object; start afresh with --overwrite.")
    return cast("dict[str, Any]", content)
