"""Losses of held-out rows: of the untrained model, and of the model fine-tuned on each choice.

In a study's directory
    untrained.json                   loss of each held-out row by id before any fine-tuning
    tuned/<seed>-<digest of ids>/    for all cells that choose these rows at this seed; where a study chooses among
                                     learning rates, the digest is that of ids and rate
        checkpoint/                  what `finetune` leaves
        heldout.json                 as untrained.json, after fine-tuning; written last
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spice_select.errors import OutputError
from spice_select.evaluation.evaluate import evaluate
from spice_select.files.locks import claimed
from spice_select.files.records import write_json
from spice_select.pool.examples import Pool
from spice_select.progress import Progress
from spice_select.study.choices import CellChoice, Unit, waiting
from spice_select.study.config import READING_KEYS, StudyConfig
from spice_select.study.directory import TUNED
from spice_select.study.records import digest, read_json
from spice_select.training.checkpoint import RECORD
from spice_select.training.finetune import finetune


@dataclass(frozen=True, slots=True)
class Tuning:
    """The fine-tunings of a study in its directory; several processes may make them at once."""

    config: StudyConfig
    directory: Path
    heldout: Pool
    progress: Progress

    def found(self, choice: CellChoice, seed: int) -> dict[str, float] | None:
        """Losses of the model tuned on a choice, if they are on disk. Raises `OutputError` where they are damaged."""
        path = self._place(choice, seed) / "heldout.json"
        return self._read(path) if path.exists() else None

    def seconds(self, choice: CellChoice, seed: int) -> float | None:
        """How long the fine-tuning on a choice took, without loading and saving; None where its record is gone."""
        record = self._place(choice, seed) / "checkpoint" / RECORD
        return float(read_json(record, dict[str, Any])["seconds"]) if record.exists() else None

    def make(self, unit: Unit, choice: CellChoice, selection: Path, *, wait: bool) -> bool | None:
        """Fine-tune on the choice of a unit and measure, unless that is done; whether this process did it.

        None if another process does, unless told to wait for it. Raises as `finetune` and `evaluate` do.
        """
        place = self._place(choice, unit.seed)
        if (place / "heldout.json").exists():
            return False
        with claimed(self.directory, place.name, wait=wait, on_wait=waiting(self.progress, unit)) as held:
            if not held:
                return None
            if (place / "heldout.json").exists():
                return False
            if not (place / "checkpoint").exists():
                self.progress.note(f"{unit}: fine-tuning on {len(choice.ids):,} rows")
                recipe = self.config.recipe.model_copy(update={"seed": unit.seed, "max_length": self.config.max_length})
                finetune(
                    selection,
                    output=place / "checkpoint",
                    model=self.config.model,
                    recipe=recipe,
                    rows_at_once=self.config.rows_at_once,
                    dtype=self.config.dtype,
                    progress=self.progress,
                )
            self._measure(place / "checkpoint", place / "heldout.json")
            return True

    def untrained(self) -> dict[str, float]:
        """Losses before any fine-tuning. Raises as `evaluate` does."""
        path = self.directory / "untrained.json"
        with claimed(self.directory, path.name):
            if not path.exists():
                self._measure(self.config.model, path)
        return self._read(path)

    def _place(self, choice: CellChoice, seed: int) -> Path:
        rate = self.config.recipe.learning_rate
        decisive = [choice.ids, rate] if self.config.learning_rates else choice.ids
        return self.directory / TUNED / f"{seed}-{digest(decisive)}"

    def _measure(self, checkpoint: str | Path, path: Path) -> None:
        done = evaluate(
            checkpoint,
            self.config.heldout,
            limit_per_source=self.config.rows_per_source,
            dtype=self.config.dtype,
            progress=self.progress,
            **self.config.model_dump(include=READING_KEYS),
        )
        write_json(path, {row.id: row.loss for row in done.heldout.rows})

    def _read(self, path: Path) -> dict[str, float]:
        losses: dict[str, float] = read_json(path, dict[str, float])
        if losses.keys() != {row.id for row in self.heldout.examples}:
            raise OutputError(
                f"{path}: holds losses of other rows than those that are held out.\nDelete it and run the study again."
            )
        return losses
