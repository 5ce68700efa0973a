"""What a training chose, in the directory of a run, which `spice-select report` explains."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load, save  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from spice_select.choices import PoolRecord
from spice_select.config import RunConfig
from spice_select.files.directory import CHECKPOINT, MANIFEST, SCORES, clear, ensure_writable, inspect_output
from spice_select.output.scores import write_scores
from spice_select.output.summary import summarise
from spice_select.output.write_run import write_manifest
from spice_select.row_tables import write_texts
from spice_select.schedule.checkpoint import TARGET, TEXTS, Checkpoint
from spice_select.schedule.identity import MACHINE_KEYS
from spice_select.stopwatch import Stopwatch
from spice_select.trainers.rows import TrainerRows

Chosen = dict[str, list[int]]
"""The picks of each candidate pool, in order, by the pool's number, which is a text as JSON has it."""


class TrainingRecord:
    """The directory that one training writes to, by one of its processes."""

    def __init__(self, directory: Path, config: RunConfig, rows: TrainerRows, target: TrainerRows | None) -> None:
        self.directory, self._config, self._rows, self._target = directory, config, rows, target
        self._checkpoint = Checkpoint(directory / CHECKPOINT)
        options = {key: value for key, value in config.model_dump().items() if key not in MACHINE_KEYS}
        data = {"data": rows.sha256, "target_data": None if target is None else target.sha256}
        self._identity = {"trainer": "SelectingSampler", **options, **data}

    def begin(self, *, overwrite: bool) -> None:
        """Start anew. Raises `OutputError` as `inspect_output`, or if the directory cannot be written to."""
        inspect_output(self.directory, "overwrite" if overwrite else "refuse")
        ensure_writable(self.directory)
        clear(self.directory)
        self._checkpoint.start(self._identity)

    def resume(self, chosen: Chosen) -> None:
        """Go on where `chosen` was all that had been chosen: later records are removed, lost ones lack figures.

        Raises `OutputError` if the directory belongs to a training with other options or data.
        """
        if inspect_output(self.directory, "resume") == "new":
            self.begin(overwrite=False)
        self._checkpoint.verify(self._identity)
        (self.directory / MANIFEST).unlink(missing_ok=True)
        known = self._checkpoint.records()
        for pool in [pool for pool, record in known.items() if chosen.get(str(pool)) != record.picked_rows]:
            self._checkpoint.record_path(pool).unlink()
            self._checkpoint.gram_path(pool).unlink(missing_ok=True)
            del known[pool]
        for pool, picks in chosen.items():
            if int(pool) not in known:
                lost = PoolRecord(int(pool), picks, list(range(len(picks))), len(picks), False, 0.0, None)
                self._checkpoint.save_record(lost)

    def save(self, record: PoolRecord, gram: Tensor | None) -> None:
        """Keep the record of a pool, and the Gram matrix [m, m] that it was chosen from."""
        if gram is not None:
            self._checkpoint.save_gram(record.pool, gram)
        self._checkpoint.save_record(record)

    def finish(self, about: Mapping[str, Any], watch: Stopwatch) -> None:
        """Write the rows' texts, `scores.parquet` and the manifest; `about` describes the model."""
        records = [record for _, record in sorted(self._checkpoint.records().items())]
        laps = 1 + max((max(record.all_rows, default=0) for record in records), default=0) // len(self._rows)
        listing = self._rows.listing(laps)
        write_texts(self._checkpoint.directory / TEXTS, self._rows.with_texts(laps))
        origin: dict[str, Any] = {"model": about}
        if self._target is not None:
            write_texts(self._checkpoint.directory / TARGET, self._target.with_texts(1))
            origin["target"] = [{"name": self._config.target[0], "sha256": self._target.sha256}]
        write_scores(self.directory / SCORES, listing.lines, records)
        summary = summarise(listing.lines, records)
        write_manifest(self.directory, self._config, listing, records, summary, watch, origin)


def packed(choices: Sequence[tuple[PoolRecord, Tensor | None]]) -> str:
    """Records and Gram matrices [m, m] as text, to be sent to other processes."""
    return json.dumps([
        (record.to_json(), None if gram is None else save({"gram": gram.contiguous()}).hex())
        for record, gram in choices
    ])  # fmt: skip


def unpacked(text: str) -> list[tuple[PoolRecord, Tensor | None]]:
    """Inverse of `packed`."""
    return [
        (PoolRecord.from_json(record), None if gram is None else load(bytes.fromhex(gram))["gram"])
        for record, gram in json.loads(text)
    ]
