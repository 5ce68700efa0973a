"""The rows of each cell at each seed, for each target where it depends on one: found in the study's directory, or made.

cells/<cell>-<seed>-<digest of options>/, with @<target> after the cell's name where it is made for a target, holds
    selection/      the directory of a run; train.parquet alone where the rows come from what cells share
    cost.json       what features and choice cost; what cells share is counted in each
    cell.json       a `CellChoice`; written last
A choice that no seed changes is made for seed 0 alone.
"""

import itertools
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from spice_select.api.select import select
from spice_select.choices import chosen_rows
from spice_select.config import RunConfig
from spice_select.errors import OutputError
from spice_select.files.locks import claimed
from spice_select.files.records import write_json
from spice_select.methods import ORDERS, RowFacts, take_tokens
from spice_select.option_values import WITHOUT_GRADIENTS, WITHOUT_SEED
from spice_select.output.trainers import TRAIN_FILE
from spice_select.output.write_run import write_training_table  # pyright: ignore[reportUnknownVariableType]
from spice_select.pool.examples import Pool
from spice_select.prepared import Prepared
from spice_select.progress import Progress
from spice_select.study.cells import EQUAL_TOKENS, OF_TARGET_SOURCES, TARGET, depends_on_target
from spice_select.study.config import StudyConfig
from spice_select.study.cost import COST, UNMEASURED, Cost, cost_in, measured
from spice_select.study.gram import frozen_picks
from spice_select.study.records import digest, read_json
from spice_select.study.stores import picked_from_stores
from spice_select.study.targets import TargetRows, written

_NOT_COUNTED = ("reading", "writing", "report")  # stages of a run that are no part of its choice


@dataclass(frozen=True, slots=True)
class Unit:
    """A cell at a seed, for a target if it depends on one: the smallest piece of a study."""

    cell: str
    target: str | None
    seed: int

    @property
    def name(self) -> str:
        """Its name in the study's directory."""
        return f"{self.cell}-{self.seed}" if self.target is None else f"{self.cell}@{self.target}-{self.seed}"

    def __str__(self) -> str:
        """Its name for people."""
        return f"cell {self.cell}, {'' if self.target is None else f'target {self.target}, '}seed {self.seed}"


def units_of(config: StudyConfig) -> list[Unit]:
    """All pieces of a study, seed by seed, in the order of its cells and targets."""

    def pieces() -> Generator[Unit]:
        for seed, cell in itertools.product(range(config.seeds), config.cells):
            targets = [*config.targets] if depends_on_target(cell, config.cells) else [None]
            yield from (Unit(cell, target, seed) for target in targets)

    return list(pieces())


@dataclass(frozen=True, slots=True)
class CellChoice:
    """The rows of a unit, in the pool's order, and the options of its cell."""

    options: dict[str, Any]
    ids: list[str]
    trained_tokens: int


@dataclass(frozen=True, slots=True)
class Choices:
    """The choices of a study in its directory; several processes may make them at once."""

    config: StudyConfig
    directory: Path
    prepared: Prepared
    targets: Mapping[str, TargetRows]
    progress: Progress

    def place(self, unit: Unit) -> Path | None:
        """Where the choice of a unit is kept; None while the choice that it follows is not made."""
        unit = self._first(unit)
        options = self.config.cells[unit.cell]
        content: list[Any] = [options, None]
        if EQUAL_TOKENS in options:
            followed = self.found(self._followed(unit))
            if followed is None:
                return None
            content[1] = followed.trained_tokens
        if unit.target is not None:  # what else of the target decides the choice is fixed by study.json
            content.append(self.targets[unit.target].identity)
        return self.directory / "cells" / f"{unit.name}-{digest(content)}"

    def found(self, unit: Unit) -> CellChoice | None:
        """The choice of a unit if it is on disk. Raises `OutputError` where its record is damaged."""
        place = self.place(unit)
        record = None if place is None else place / "cell.json"
        return read_json(record, CellChoice) if record is not None and record.exists() else None

    def cost(self, unit: Unit) -> Cost:
        """What the features and the choice of a unit cost."""
        return cost_in(self._existing(unit) / COST)

    def selection(self, unit: Unit) -> Path:
        """The directory that holds the rows of a unit whose choice is made, for `finetune`."""
        return self._existing(unit) / "selection"

    def make(self, unit: Unit, *, wait: bool) -> CellChoice | None:
        """The choice of a unit, made if it is missing; None if another process makes it, unless told to wait.

        Raises as `select` and `pick` do.
        """
        unit = self._first(unit)
        options, tokens = self.config.cells[unit.cell], None
        if EQUAL_TOKENS in options:
            followed = self.make(self._followed(unit), wait=wait)
            if followed is None:
                return None
            tokens = followed.trained_tokens
        place = self._existing(unit)
        record = place / "cell.json"
        if not record.exists():
            with claimed(self.directory, place.name, wait=wait, on_wait=waiting(self.progress, unit)) as held:
                if not held:
                    return None
                if not record.exists():
                    self.progress.note(f"{unit}: choosing rows")
                    rows, cost = self._rows(unit, tokens, place / "selection")
                    chosen = [self.prepared.pool.examples[row] for row in rows]
                    write_json(place / COST, asdict(cost))
                    trained = sum(row.trained_tokens for row in chosen)
                    write_json(record, asdict(CellChoice(options, [row.id for row in chosen], trained)))
        return read_json(record, CellChoice)

    def _first(self, unit: Unit) -> Unit:
        """The unit whose choice this one has: seed 0's where no seed changes it, else its own."""
        once = self.config.cells[unit.cell].get("method") in WITHOUT_SEED
        return replace(unit, seed=0) if once else unit

    def _existing(self, unit: Unit) -> Path:
        place = self.place(unit)
        assert place is not None, "the choice that a unit follows is made first"
        return place

    def _followed(self, unit: Unit) -> Unit:
        other = self.config.cells[unit.cell][EQUAL_TOKENS]
        return Unit(other, unit.target if depends_on_target(other, self.config.cells) else None, unit.seed)

    def _rows(self, unit: Unit, tokens: int | None, selection: Path) -> tuple[list[int], Cost]:
        """Places of the chosen rows in the pool, in its order, and the cost; `selection` then holds them as chats."""
        config = self.config.run_config(unit.cell, unit.seed, tokens).for_pool(len(self.prepared.pool.examples))
        options = self.config.cells[unit.cell]
        proxy_seed = unit.seed % self.config.gradient_seeds
        if OF_TARGET_SOURCES in options:
            assert unit.target is not None
            with measured() as spent:
                rows = random_of_sources(self.prepared.pool, config, self.targets[unit.target].sources)
                picked = (rows, spent())
        elif config.method in WITHOUT_GRADIENTS:
            return self._whole_run(config, selection)
        elif config.candidates == "all":
            files = self._drawn(unit) if TARGET in options else list[Path]()
            picked = picked_from_stores(self.config.pool, config, proxy_seed, files, self.directory, self.progress)
        else:
            found = frozen_picks(self.prepared, config, proxy_seed, self.directory, self.progress)
            if found is None:
                return self._whole_run(config, selection)
            picked = found
        selection.mkdir(parents=True, exist_ok=True)
        write_training_table(selection / TRAIN_FILE, [self.prepared.pool.examples[row] for row in picked[0]])
        return picked

    def _whole_run(self, config: RunConfig, selection: Path) -> tuple[list[int], Cost]:
        begun = selection.exists()  # by a process that was killed: what it spent is not known
        try:
            with measured() as spent:
                found = select(self.config.pool, config, output=selection, existing="resume", progress=self.progress)
                cost = spent()
        except OutputError as error:
            raise OutputError(f"{error}\nOr delete {selection} and run the study again.") from error
        seconds = sum(time for part, time in found.seconds.items() if part not in _NOT_COUNTED)
        return chosen_rows(found.records), UNMEASURED if begun else replace(cost, seconds=seconds)

    def _drawn(self, unit: Unit) -> list[Path]:
        """The files of the rows that a unit chooses for."""
        assert unit.target is not None
        count = self.config.rows_of_target(unit.cell)
        rows = self.targets[unit.target].drawn(unit.seed, count, self.config.target_rows)
        return written(rows, self.directory / "targets", f"{unit.target}-{unit.seed}-{count}")


def waiting(progress: Progress, unit: Unit) -> Callable[[str], None]:
    """What to call with the name of the process that is at work on a unit."""
    return lambda holder: progress.note(f"{unit}: waiting for {holder}, which is at work on it")


def random_of_sources(pool: Pool, config: RunConfig, sources: frozenset[str]) -> list[int]:
    """Places of random rows of these sources in the pool, in its order: all of them where the budget is larger.

    They come in the order of method random, so that they are its picks as far as these are of the sources.
    """
    lengths: list[int] = pool.examples.trained_tokens.tolist()
    budget = config.budget_rows(len(lengths), sum(lengths))
    of_sources = {line.index for line in pool.listing().lines if line.source in sources}
    order = [row for row in ORDERS["random"](RowFacts(lengths, config.seed)) if row in of_sources]
    return sorted(order[:budget] if config.budget_tokens is None else take_tokens(order, lengths, config.budget_tokens))
