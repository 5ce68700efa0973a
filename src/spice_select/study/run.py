"""`run_study`: every cell at every seed, and for every target, by `select`, `pick`, `finetune` and `evaluate`.

Then tables and figures. `directory` says what a study leaves on disk.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from spice_select.errors import ConfigError, NotFiniteError
from spice_select.evaluation.bootstrap import by_source, macro_mean
from spice_select.evaluation.heldout import limited
from spice_select.files.locks import claimed
from spice_select.pool.examples import Pool, PoolOptions, read_pool
from spice_select.prepared import Prepared, prepare, report_pool
from spice_select.progress import Progress
from spice_select.study.cells import depends_on_target
from spice_select.study.choices import Choices, Unit, units_of
from spice_select.study.config import READING_KEYS, StudyConfig
from spice_select.study.directory import identity_of, opened_study
from spice_select.study.outcome import sources_by_id, write_outcome
from spice_select.study.table import CellResult, overlap_remarks
from spice_select.study.targets import TargetRows, read_targets
from spice_select.study.tuning import Tuning
from spice_select.training.plan import require_trl


@dataclass(frozen=True, slots=True)
class Study:
    """A study in its directory; `prepared` holds the pool, and the model as found but not loaded."""

    config: StudyConfig
    directory: Path
    prepared: Prepared
    heldout: Pool
    targets: dict[str, TargetRows]
    progress: Progress
    # learning rate -> held-out macro loss of the baseline at seed 0, None where it diverges; empty where none is chosen
    rates: dict[float, float | None]

    @property
    def choices(self) -> Choices:
        """The rows of each unit."""
        return Choices(self.config, self.directory, self.prepared, self.targets, self.progress)

    @property
    def tuning(self) -> Tuning:
        """The losses of each choice."""
        return Tuning(self.config, self.directory, self.heldout, self.progress)

    def finish(self, unit: Unit, *, wait: bool) -> bool:
        """Choose for a unit, fine-tune and measure as far as it is missing; False if another process is at work on it.

        Told to `wait`, it waits for that process instead. Raises as each of its steps does.
        """
        choice = self.choices.make(unit, wait=wait)
        if choice is None:
            return False
        new = self.tuning.make(unit, choice, self.choices.selection(unit), wait=wait)
        if new:
            self.write_outcome()
        return new is not None

    def results(self) -> list[CellResult]:
        """Of all units that are finished, whichever process finished them, in the order of the study."""
        place = {line.id: line.source for line in self.prepared.pool.listing().lines}
        found: list[CellResult] = []
        for unit in units_of(self.config):
            choice = self.choices.found(unit)
            losses = None if choice is None else self.tuning.found(choice, unit.seed)
            if choice is not None and losses is not None:
                sources, cost = Counter(place[name] for name in choice.ids), self.choices.cost(unit)
                about = (unit.cell, unit.seed, len(choice.ids), choice.trained_tokens, losses, unit.target, sources)
                found.append(CellResult(*about, cost, self.tuning.seconds(choice, unit.seed)))
        return found

    def with_best_rate(self) -> "Study":
        """The study at the learning rate that is best for the baseline at seed 0, each tried unless that is done.

        Raises `ConfigError` where the training diverges at each of them.
        """
        unit, rates = Unit(self.config.baseline, None, 0), dict[float, float | None]()
        for rate in self.config.learning_rates:
            choice, tuning = self.choices.make(unit, wait=True), self._at(rate).tuning
            assert choice is not None, "it waits for other processes"
            self.progress.note(f"trying learning rate {rate:g} on {unit}")
            try:
                tuning.make(unit, choice, self.choices.selection(unit), wait=True)
            except NotFiniteError:
                rates[rate] = None
                continue
            losses = tuning.found(choice, unit.seed)
            assert losses is not None, "it is measured"
            rates[rate] = macro_mean(by_source(losses, sources_by_id(self.heldout)))
        known = {loss: rate for rate, loss in reversed(rates.items()) if loss is not None}
        if rates and not known:
            raise ConfigError(f"learning_rates: the training of {unit} diverges at each of them; add a lower one.")
        return replace(self._at(known[min(known)]), rates=rates) if known else self

    def _at(self, rate: float) -> "Study":
        recipe = self.config.recipe.model_copy(update={"learning_rate": rate})
        return replace(self, config=self.config.model_copy(update={"recipe": recipe}))

    def write_outcome(self) -> str:
        """Write tables and figures of what is finished; returns the tables."""
        untrained = self.tuning.untrained()
        with claimed(self.directory, "outcome"):
            about = (self.config, self.directory, self.prepared.pool, self.heldout, self.targets)
            return write_outcome(*about, self.results(), untrained, self.rates)


def run_study(config: StudyConfig, directory: Path, progress: Progress) -> str:
    """Compute what is missing of a study in `directory`, seed by seed; returns its tables, in Markdown.

    Other processes may do so at the same time: each takes what no other is at work on, and all return the same.

    Raises `ConfigError` where data or a budget do not fit the study; `OutputError` where the directory holds another
    study, damaged files or links; and as `select`, `pick`, `finetune` and `evaluate` do.
    """
    study = read_study(config, directory, progress)
    identity = identity_of(config, study.prepared, study.heldout, study.targets)
    with opened_study(directory, identity, progress.note):
        study, left = study.with_best_rate(), units_of(config)
        while left:
            others = [unit for unit in left if not study.finish(unit, wait=False)]
            if len(others) == len(left):
                study.finish(others.pop(0), wait=True)
            left = others
        return study.write_outcome()


def read_study(config: StudyConfig, directory: Path, progress: Progress) -> Study:
    """Read pool, held-out rows and targets with the model's tokenizer. Raises as `run_study`."""
    for name in ("pool", "heldout"):
        if not getattr(config, name):
            raise ConfigError(f"the study names no {name}; add '{name}: [FILE]' to its YAML or give --{name} FILE.")
    if not config.targets and (cells := [cell for cell in config.cells if depends_on_target(cell, config.cells)]):
        raise ConfigError(
            f"cell '{cells[0]}' needs a target, and the study names none; "
            "add 'targets: {NAME: [FILE]}' to its YAML or give --target NAME=FILE."
        )
    require_trl()
    without_target = config.run_config(config.baseline, seed=0).model_copy(update={"target": []})
    prepared = prepare(config.pool, without_target, progress)
    pool, reading = prepared.pool, PoolOptions(**config.model_dump(include=READING_KEYS))
    for cell in config.cells:
        try:
            config.run_config(cell, seed=0).budget_rows(len(pool.examples), pool.trained_tokens)
        except ConfigError as error:
            raise ConfigError(f"cell '{cell}': {error}") from None
    kinds = {"cells": len(config.cells), "targets": len(config.targets), "seeds": config.seeds}
    purpose = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    report_pool(pool, prepared.config, purpose, progress)
    heldout = limited(read_pool(config.heldout, prepared.tokenizer, reading, progress.note), config.rows_per_source)
    targets = read_targets(config, prepared.tokenizer, pool, heldout, progress)
    remarks = [remark for target in targets.values() for remark in target.remarks]
    for remark in [*heldout.remarks(reading.max_length), *overlap_remarks(pool, heldout), *remarks]:
        progress.note(remark)
    return Study(config, directory, prepared, heldout, targets, progress, {})
