"""`run_study`: every cell at every seed, each kept when done, then one table and two figures.

Layout of the study's directory, format version 1:
    study.json            what the study is (see `identity`)
    model/                the model as loaded, from which all cells and gradients start
    gram-*.safetensors, response-losses.json    evidence the cells share
    untrained.json        held-out losses before any fine-tuning
    cells/<cell>/<seed>.json
    table.md, lines.json, loss.svg, tokens.svg  the outcome, written anew after every cell
"""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from spice_select.files.atomic import new_folder, write_text
from spice_select.files.directory import refuse_links, sweep_folders
from spice_select.files.locks import sole_writer
from spice_select.pool.examples import Pool
from spice_select.progress import Progress
from spice_select.proxy.loading import (
    load_model,
    load_tokenizer,
    model_fingerprint,
    model_source,
    pick_device,
    quiet,
)
from spice_select.study import figures
from spice_select.study.cells import (
    CELLS,
    CellResult,
    followed_tokens,
    heldout_losses,
    kept_result,
    measure,
    result_path,
    write_result,
)
from spice_select.study.config import StudyConfig
from spice_select.study.evidence import Evidence
from spice_select.study.files import read_json, write_json
from spice_select.study.identity import begin, begun, identity_of
from spice_select.study.inputs import model_config, read_inputs
from spice_select.study.picks import subset_of
from spice_select.study.remarks import overlap_remarks, source_remarks
from spice_select.study.table import Line, Shares, lines, markdown, pool_shares

UNTRAINED = "untrained.json"
MODEL = "model"


@dataclass(frozen=True, slots=True)
class StudyResult:
    """The finished study."""

    lines: list[Line]
    markdown: str
    directory: Path


def run_study(study: StudyConfig, directory: Path, progress: Progress) -> StudyResult:
    """Run what is missing of `study` in `directory`, seed by seed, and write its table and figures.

    Raises:
        ConfigError: no pool or held-out rows; a budget beyond the pool; a changed cell.
        OutputError: the directory holds another study, damaged files, or links in place of folders.

    """
    inputs = read_inputs(study, progress)
    identity = identity_of(study, inputs.pool, inputs.heldout, model_fingerprint(inputs.source))
    begun(directory, identity)  # raises before anything is made where it may not be
    refuse_links(directory, MODEL, CELLS, *(f"{CELLS}/{cell}" for cell in study.cells))
    directory.mkdir(parents=True, exist_ok=True)
    work = _Work(study, directory, inputs.pool, inputs.heldout, progress)
    with sole_writer(directory):
        begin(directory, identity)
        sweep_folders(directory)
        for seed, cell in itertools.product(range(study.seeds), study.cells):
            work.ensure(cell, seed)
        return work.report()


@dataclass(frozen=True, slots=True)
class _Work:
    study: StudyConfig
    directory: Path
    pool: Pool
    heldout: Pool
    progress: Progress

    def ensure(self, cell: str, seed: int) -> None:
        """Run a cell unless its result is kept; the cell whose tokens it follows goes first."""
        other = self.study.followed(cell)
        if other is not None:
            self.ensure(other, seed)
        if self.kept(cell, seed) is not None:
            return
        if result_path(self.directory, cell, seed).exists():
            self.progress.note(f"cell {cell}, seed {seed}: made anew, for cell {other} has other trained tokens now")
        self.run(cell, seed)
        self.report()

    def kept(self, cell: str, seed: int) -> CellResult | None:
        """See `kept_result`."""
        return kept_result(self.study, self.directory, cell, seed)

    def run(self, cell: str, seed: int) -> None:
        """Select, fine-tune, evaluate, keep."""
        target, model = followed_tokens(self.study, self.directory, cell, seed), self._model()
        self.progress.note(f"cell {cell}, seed {seed}")
        evidence = Evidence(self.directory, self.pool, self.progress)
        config = self.study.run_config(cell, seed, target).model_copy(update={"model": str(model)})
        subset = subset_of(config, self.study.pool, evidence, seed % self.study.gradient_seeds)
        examples = [self.pool.examples[row] for row in subset]
        ids = [example.id for example in examples]
        twin = self._twin(seed, ids)
        if twin is not None:
            self.progress.note(f"the same rows as cell {twin.cell}: its losses stand for both")
            steps, losses = twin.steps, twin.losses
        else:
            steps, losses = measure(self.study, model, self.pool, subset, self.heldout, seed, self.progress)
        trained = sum(example.trained_tokens for example in examples)
        result = CellResult(cell, seed, self.study.cells[cell], ids, trained, steps, losses, target)
        write_result(self.directory, result)

    def _twin(self, seed: int, ids: list[str]) -> CellResult | None:
        """A finished cell with the same rows at the same seed: fine-tuning on them again would repeat every number."""
        done = (self.kept(cell, seed) for cell in self.study.cells)
        return next((result for result in done if result is not None and result.ids == ids), None)

    def report(self) -> StudyResult:
        """Write the table and the figures of the cells that are done."""
        sources = {example.id: example.row.source for example in self.heldout.examples}
        shares = Shares(sources, pool_shares([example.row.source for example in self.pool.examples]))
        table = lines(list(self._results()), shares, self.study.baseline)
        remarks = source_remarks(sources.values(), shares.pool) + overlap_remarks(self.pool, self.heldout)
        text = markdown(table, self.study.baseline, shares.macro(self._untrained()), remarks)
        write_text(self.directory / "table.md", text)
        write_json(self.directory / "lines.json", [asdict(line) for line in table], indent=1)
        if table:
            figures.draw(table, self.study.baseline, self.directory)
        return StudyResult(table, text, self.directory)

    def _results(self) -> Iterator[CellResult]:
        for cell, seed in itertools.product(self.study.cells, range(self.study.seeds)):
            result = self.kept(cell, seed)
            if result is not None:
                yield result

    def _untrained(self) -> dict[str, float]:
        path = self.directory / UNTRAINED
        if not path.exists():
            self.progress.note("the untrained model")
            model = load_model(model_source(model_config(str(self._model()))), "float32", pick_device("auto"))
            write_json(path, heldout_losses(model, self.heldout, self.progress))
        return read_json(path)

    def _model(self) -> Path:
        """The model as a directory: one copy for all that is measured, and quicker to load than to unpack each time."""
        path = self.directory / MODEL
        if not path.exists():
            source = model_source(model_config(self.study.model))
            with new_folder(path) as folder:
                with quiet():
                    load_model(source, "float32", pick_device("cpu")).save_pretrained(folder)
                load_tokenizer(source).save_pretrained(folder)
        return path
