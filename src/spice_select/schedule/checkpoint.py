"""A run's progress on disk, so that a killed run continues to the identical subset.

Layout of `<output>/checkpoint/`, format version 1:
    identity.json              options, data and model hashes; those of a resumed run must be the same
    pool-000012.json           one finished candidate pool (`PoolRecord`), and a digest of the run it belongs to
    gram-000012.safetensors    its rows' unscaled gradients, and the target's: their Gram matrix `gram` [m, m] float64
    texts.parquet              all rows with their texts, written at the end
    target.parquet             the target's rows likewise
    gradients/                 with candidates all: a gradient store; of the targets, target-0/, target-1/ ...
    batch_tokens.json          tokens of a pass, where they were measured
    proxy-000003.safetensors   LoRA factors and AdamW moments at the start of cycle 3; metadata: optimizer steps
Every file appears whole or not at all. Only the newest proxy is kept.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spice_select.choices import PoolRecord
from spice_select.errors import OutputError
from spice_select.files.atomic import write_bytes, write_text
from spice_select.files.directory import IDENTITY
from spice_select.files.records import damage_reported, differences, read_json

FORMAT_VERSION = 1

STORE = "gradients"
"""Where a run over all rows keeps its gradient store."""
TEXTS = "texts.parquet"
"""Where a run without a store keeps its rows with their texts."""
TARGET = "target.parquet"
"""Where it keeps its target rows with their texts."""

OVERWRITE = "Start again with --overwrite."
_RECORD = TypeAdapter(PoolRecord)


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
        self._run_digest()

    def verify(self, identity: dict[str, Any]) -> None:
        """Check that the directory belongs to the run that `identity` describes.

        Raises `OutputError`, which names what differs.
        """
        wanted = json.loads(_dump({"format_version": FORMAT_VERSION, **identity}))
        if differing := differences(read_json(self.directory / IDENTITY, OVERWRITE), wanted):
            raise OutputError(
                f"{self.directory.parent}: the run to resume had other settings: {differing}.\n"
                "Use the same ones, or start again with --overwrite or another --output."
            )
        self._run_digest()

    def records(self) -> dict[int, PoolRecord]:
        """The finished pools by index."""
        found: dict[int, PoolRecord] = {}
        own = self._run_digest()
        for path in sorted(self.directory.glob("pool-*.json")):
            content = read_json(path, OVERWRITE)
            if content.pop("run", own) != own:
                continue  # written by a process that outlived an earlier run in this directory
            try:
                record = _checked(content)
            except (KeyError, TypeError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise OutputError(f"{path}: is not a pool record ({reason}).\n{OVERWRITE}") from error
            found[record.pool] = record
        return found

    def save_record(self, record: PoolRecord) -> None:
        """Save the record of a finished pool."""
        write_text(self.record_path(record.pool), _dump({"run": self._run_digest(), **record.to_json()}))

    def _run_digest(self) -> str:
        """A digest that distinguishes this run's records from those of a run with other settings.

        It is read once: if another run begins here later, it does not take this process's records for its own.
        """
        if not self._known:
            identity = _dump(read_json(self.directory / IDENTITY, OVERWRITE))
            self._known = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self._known

    def record_path(self, pool: int) -> Path:
        """Where a pool's record is."""
        return self.directory / f"pool-{pool:06d}.json"

    def gram_path(self, pool: int) -> Path:
        """Where a pool's Gram matrix is, if it was saved."""
        return self.directory / f"gram-{pool:06d}.safetensors"

    def save_gram(self, pool: int, gram: Tensor) -> None:
        """Save the Gram matrix [m, m] that a pool was chosen from, so that the choice can be explained."""
        write_bytes(self.gram_path(pool), save({"gram": gram.contiguous()}))

    def gram(self, pool: int) -> Tensor | None:
        """A pool's Gram matrix [m, m]; None if it was not saved. Raises `OutputError` if the file is damaged."""
        path = self.gram_path(pool)
        if not path.exists():
            return None
        with damage_reported(path, "Delete it to continue without it.", SafetensorError, KeyError, OSError):
            return load(path.read_bytes())["gram"]

    def proxy_cycle(self) -> int | None:
        """The cycle whose starting proxy is saved, if any."""
        return max((cycle for cycle, _ in self._proxies()), default=None)

    def save_proxy(self, cycle: int, tensors: dict[str, Tensor], steps: int) -> None:
        """Save the proxy at the start of `cycle`, then delete older ones."""
        older = [path for _, path in self._proxies()]
        content = save({k: v.contiguous().cpu() for k, v in tensors.items()}, metadata={"steps": str(steps)})
        write_bytes(self.directory / f"proxy-{cycle:06d}.safetensors", content)
        for path in older:
            path.unlink(missing_ok=True)

    def load_proxy(self, cycle: int) -> tuple[dict[str, Tensor], int]:
        """Tensors and optimizer steps of the proxy saved for `cycle`. Raises `OutputError` if the file is damaged."""
        path = self.directory / f"proxy-{cycle:06d}.safetensors"
        with damage_reported(path, OVERWRITE, SafetensorError, KeyError, ValueError, OSError):
            content = path.read_bytes()
            # A safetensors file opens with the header's length (8 bytes, little-endian) and the header, JSON.
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            return load(content), int(header["__metadata__"]["steps"])

    def drop_proxy(self) -> None:
        """Delete the saved proxy, which a complete run does not need."""
        for _, path in self._proxies():
            path.unlink()

    def _proxies(self) -> list[tuple[int, Path]]:
        pattern = re.compile(r"proxy-(\d+)\.safetensors")
        matches = ((pattern.fullmatch(path.name), path) for path in self.directory.glob("proxy-*.safetensors"))
        return [(int(match[1]), path) for match, path in matches if match]


def target_stores(count: int) -> list[str]:
    """Where a run over all rows keeps the stores of its targets."""
    return [f"target-{place}" for place in range(count)]


def _dump(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False)


def _checked(content: dict[str, Any]) -> PoolRecord:
    """The record that a file holds; raises `ValueError` where types, lengths or places do not fit each other."""
    record = _RECORD.validate_python(PoolRecord.from_json(content))
    for name, places, end in (("rows", record.rows, None), ("picks", record.picks, len(record.rows))):
        if min(places, default=0) < 0 or len(set(places)) < len(places) or (end and max(places, default=-1) >= end):
            raise ValueError(f"its {name} are not distinct places")
    measures = record.measures
    if measures is not None:
        per_row = (measures.norm, measures.gain, measures.base, measures.epsilon, measures.conflict, measures.score)
        per_row += () if measures.loss is None else (measures.loss,)
        if any(len(values) != len(record.rows) for values in per_row):
            raise ValueError("its measures do not have one value per row")
    target = record.target
    if target is not None:
        each = (target.start, target.picks, target.whole, target.random)
        if any(len(values) != len(target.weights) for values in each) or len(target.conflict) != len(record.rows):
            raise ValueError("its coverage does not have one value per target row")
        if len(target.serves) != len(record.picks) or len(target.counts) != len(target.curve):
            raise ValueError("its coverage does not fit its picks")
    return record
