"""`run_study`: every cell at every seed by `select`, `finetune` and `evaluate`, then one table and two figures.

The study's directory, format version 2. What is there is not computed again:
    study.json                the settings that must stay the same when the study is continued
    gram-*.safetensors        see `gram`
    untrained.json            loss of each held-out row by id before any fine-tuning
    cells/<cell>-<seed>-<digest of options>/
        selection/            the directory of a run; train.parquet alone where the rows come from a shared Gram matrix
        cell.json             a `CellChoice`; written when the rows are chosen
    tuned/<seed>-<digest of ids>/    for all cells that choose these rows at this seed
        checkpoint/           what `finetune` leaves
        heldout.json          as untrained.json, after fine-tuning; written last
    table.md, lines.json, loss.svg, tokens.svg    the outcome, written anew after each cell
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from spice_select.api.select import select
from spice_select.config import RunConfig
from spice_select.errors import ConfigError, OutputError
from spice_select.evaluation.evaluate import evaluate
from spice_select.evaluation.heldout import limited
from spice_select.files.atomic import TEMPORARY_PATTERN, write_text
from spice_select.files.directory import refuse_links, sweep_folders
from spice_select.files.locks import LOCK, sole_writer
from spice_select.files.records import differences, write_json
from spice_select.option_values import WITHOUT_GRADIENTS
from spice_select.output.trainers import TRAIN_FILE
from spice_select.output.write_run import write_training_table  # pyright: ignore[reportUnknownVariableType]
from spice_select.pool.examples import Pool, PoolOptions, read_pool
from spice_select.prepared import Prepared, prepare, report_pool
from spice_select.progress import Progress
from spice_select.study import figures
from spice_select.study.config import EQUAL_TOKENS, READING_KEYS, StudyConfig
from spice_select.study.gram import frozen_picks
from spice_select.study.table import CellResult, Sources, lines, markdown, overlap_remarks
from spice_select.training.finetune import finetune
from spice_select.training.plan import require_trl

DECISIVE = {"model", "budget", "gradient_seeds", "format", "columns", "max_length", "rows_per_source", "recipe"}
"""Keys that must stay the same when a study is continued; of the data, contents are compared instead of names."""


@dataclass(frozen=True, slots=True)
class CellChoice:
    """The rows of a cell at a seed, in the pool's order, and the options that they were chosen by."""

    options: dict[str, Any]
    ids: list[str]
    trained_tokens: int


@dataclass(frozen=True, slots=True)
class Study:
    """A study in its directory; `prepared` holds the pool, and the model as found but not loaded."""

    config: StudyConfig
    directory: Path
    prepared: Prepared
    heldout: Pool
    progress: Progress

    def choose(self, cell: str, seed: int) -> tuple[CellChoice, Path]:
        """The choice of a cell, made unless it is on disk, and its `selection`. Raises as `select` does."""
        options, tokens = self.config.cells[cell], None
        if EQUAL_TOKENS in options:
            tokens = self.choose(options[EQUAL_TOKENS], seed)[0].trained_tokens
        place = self.directory / "cells" / f"{cell}-{seed}-{digest([options, tokens])}"
        record, selection = place / "cell.json", place / "selection"
        if not record.exists():
            self.progress.note(f"cell {cell}, seed {seed}: choosing rows")
            rows = self._rows(self.config.run_config(cell, seed, tokens), selection)
            chosen = [self.prepared.pool.examples[row] for row in rows]
            trained = sum(row.trained_tokens for row in chosen)
            write_json(record, asdict(CellChoice(options, [row.id for row in chosen], trained)))
        return read_json(record, CellChoice), selection

    def _rows(self, config: RunConfig, selection: Path) -> list[int]:
        """Places of the chosen rows in the pool, in its order; `selection` then holds them as chats."""
        if config.method not in WITHOUT_GRADIENTS:
            proxy_seed = config.seed % self.config.gradient_seeds
            rows = frozen_picks(self.prepared, config, proxy_seed, self.directory, self.progress)
            if rows is not None:
                selection.mkdir(parents=True, exist_ok=True)
                write_training_table(selection / TRAIN_FILE, [self.prepared.pool.examples[row] for row in rows])
                return rows
        try:
            found = select(self.config.pool, config, output=selection, existing="resume", progress=self.progress)
        except OutputError as error:
            raise OutputError(f"{error}\nOr delete {selection} and run the study again.") from error
        return sorted(found.indices)

    def evaluate(self, cell: str, seed: int) -> tuple[CellResult, bool]:
        """The result of a cell, and whether it was measured now, not found. Raises as each of its steps does."""
        choice, selection = self.choose(cell, seed)
        place = self.directory / "tuned" / f"{seed}-{digest(choice.ids)}"
        checkpoint, heldout = place / "checkpoint", place / "heldout.json"
        new = not heldout.exists()
        if new and not checkpoint.exists():
            self.progress.note(f"cell {cell}, seed {seed}: fine-tuning on {len(choice.ids):,} rows")
            finetune(
                selection,
                output=checkpoint,
                model=self.config.model,
                recipe=self.config.recipe.model_copy(update={"seed": seed, "max_length": self.config.max_length}),
                rows_at_once=self.config.rows_at_once,
                progress=self.progress,
            )
        losses = self.losses(checkpoint, heldout)
        return CellResult(cell, seed, len(choice.ids), choice.trained_tokens, losses), new

    def losses(self, checkpoint: str | Path, path: Path) -> dict[str, float]:
        """Loss of each held-out row by id under `checkpoint`, kept at `path`. Raises as `evaluate` does."""
        if not path.exists():
            reading, limit = self.config.model_dump(include=READING_KEYS), self.config.rows_per_source
            done = evaluate(checkpoint, self.config.heldout, limit_per_source=limit, progress=self.progress, **reading)
            write_json(path, {row.id: row.loss for row in done.heldout.rows})
        return read_json(path, dict[str, float])

    def write_outcome(self, results: Sequence[CellResult]) -> str:
        """Write the table and the figures of `results`; returns the table."""
        pool, baseline = self.prepared.pool, self.config.baseline
        rows = Counter(example.row.source for example in pool.examples)
        sources = Sources({example.id: example.row.source for example in self.heldout.examples}, rows)
        untrained = self.losses(self.config.model, self.directory / "untrained.json")
        table, remarks = lines(results, sources, baseline), sources.remarks() + overlap_remarks(pool, self.heldout)
        text = markdown(table, baseline, sources.macro(untrained), remarks)
        write_text(self.directory / "table.md", text)
        write_json(self.directory / "lines.json", [asdict(line) for line in table])
        figures.draw(table, baseline, self.directory)
        return text


def run_study(config: StudyConfig, directory: Path, progress: Progress) -> str:
    """Compute what is missing of a study in `directory`, seed by seed; returns its table, in Markdown.

    Raises `ConfigError` where data or a budget do not fit the study; `OutputError` where the directory holds another
    study, damaged files or links; and as `select`, `finetune` and `evaluate` do.
    """
    study = read_study(config, directory, progress)
    identity = identity_of(study)
    check_directory(directory, identity)  # before anything is written where it may not be
    refuse_links(directory, *(str(path.relative_to(directory)) for path in directory.rglob("*")))
    directory.mkdir(parents=True, exist_ok=True)
    results: list[CellResult] = []
    with sole_writer(directory):
        if not check_directory(directory, identity):
            write_json(directory / "study.json", identity)
        sweep_folders(directory)
        for seed, cell in itertools.product(range(config.seeds), config.cells):
            result, new = study.evaluate(cell, seed)
            results.append(result)
            if new:
                study.write_outcome(results)
        return study.write_outcome(results)


def read_study(config: StudyConfig, directory: Path, progress: Progress) -> Study:
    """Read pool and held-out rows with the model's tokenizer. Raises as `run_study`."""
    for name in ("pool", "heldout"):
        if not getattr(config, name):
            raise ConfigError(f"the study names no {name}; add '{name}: [FILE]' to its YAML or give --{name} FILE.")
    require_trl()
    prepared = prepare(config.pool, config.run_config(config.baseline, seed=0), progress)
    pool, reading = prepared.pool, PoolOptions(**config.model_dump(include=READING_KEYS))
    for cell in config.cells:
        try:
            config.run_config(cell, seed=0).budget_rows(len(pool.examples), pool.trained_tokens)
        except ConfigError as error:
            raise ConfigError(f"cell '{cell}': {error}") from None
    report_pool(pool, prepared.config, f"{len(config.cells):,} cells, {config.seeds:,} seeds", progress)
    heldout = limited(read_pool(config.heldout, prepared.tokenizer, reading, progress.note), config.rows_per_source)
    for remark in [*heldout.remarks(reading.max_length), *overlap_remarks(pool, heldout)]:
        progress.note(remark)
    return Study(config, directory, prepared, heldout, progress)


def identity_of(study: Study) -> dict[str, Any]:
    """The content of study.json, with what pins the model's weights and the data."""
    pool, heldout = (
        digest([[file.sha256 for file in rows.files], [[row.id, row.row.source] for row in rows.examples]])
        for rows in (study.prepared.pool, study.heldout)
    )
    own = {"weights": study.prepared.about["fingerprint"], "pool": pool, "heldout": heldout}
    return {"format_version": 2, **study.config.model_dump(include=DECISIVE), **own}


def check_directory(directory: Path, identity: dict[str, Any]) -> bool:
    """Whether the directory holds this study, else False; raises `OutputError` where it holds anything else."""
    path = directory / "study.json"
    if path.exists():
        if found := differences(read_json(path, dict[str, Any]), identity):
            raise OutputError(
                f"{directory}: holds a study with other settings: {found}.\n"
                "Cells and seeds may be added; else choose a new --output. Rows without an id or a source\n"
                "are named after their file: give a renamed file its old name back."
            )
        return True
    present = directory.iterdir() if directory.exists() else ()
    if not all(other.match(TEMPORARY_PATTERN) or other.name == LOCK for other in present):
        raise OutputError(f"{directory}: is not empty and holds no study; choose a new --output.")
    return False


def digest(content: object) -> str:
    """A short name for a JSON value, different for different values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def read_json(path: Path, kind: Any) -> Any:
    """Read a value of the type `kind`. Raises `OutputError` where the file holds no such value."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(f"{path}: is damaged ({reason}).\nDelete it and run the study again.") from error
