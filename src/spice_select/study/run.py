"""`run_study`: every cell at every seed, each kept when done, then one table and two figures.

Layout of the study's directory, format version 1:
    study.json            what the study is: everything but its cells and the number of seeds, and hashes of the data
    model/                the model as loaded, so that each cell starts from it at once
    gram-*.safetensors, response-losses.json    evidence the cells share
    untrained.json        held-out losses before any fine-tuning
    cells/<cell>/<seed>.json
    table.md, lines.json, loss.svg, tokens.svg  the outcome, written anew after every cell
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spice_select.config import RunConfig, resolve
from spice_select.errors import ConfigError, OutputError
from spice_select.evaluation.heldout import limited
from spice_select.output.atomic import write_text
from spice_select.pool.examples import Pool, PoolOptions, read_pool
from spice_select.progress import Progress
from spice_select.proxy.loading import load_model, load_tokenizer, model_source, pick_device, quiet
from spice_select.study import figures
from spice_select.study.cells import CellResult, heldout_losses, measure, read_result, write_result
from spice_select.study.config import EQUAL_TOKENS, StudyConfig
from spice_select.study.evidence import Evidence
from spice_select.study.picks import subset_of
from spice_select.study.table import Line, Shares, lines, markdown, pool_shares
from spice_select.training.trainer import require_trl

FORMAT_VERSION = 1
MAY_CHANGE = {"cells", "seeds", "baseline", "pool", "heldout", "rows_at_once", "gradient_memory"}
"""Keys that may differ when a study goes on; the data's contents are compared instead of their names."""


@dataclass(frozen=True, slots=True)
class StudyResult:
    """The finished study."""

    lines: list[Line]
    markdown: str
    directory: Path


def run_study(study: StudyConfig, directory: Path, progress: Progress) -> StudyResult:
    """Run what is missing of `study` in `directory`, seed by seed, and write its table and figures.

    Raises:
        ConfigError: no pool or held-out rows; a changed cell; matplotlib is missing.
        OutputError: the directory holds another study or damaged files.

    """
    for name in ("pool", "heldout"):
        if not getattr(study, name):
            raise ConfigError(f"the study names no {name}; add '{name}: [FILE]' to its YAML or give --{name} FILE.")
    require_trl()
    figures.require_matplotlib()
    tokenizer = load_tokenizer(model_source(_config(study.model)))
    options = PoolOptions(max_length=study.max_length)
    pool = read_pool(study.pool, tokenizer, options)
    heldout = limited(read_pool(study.heldout, tokenizer, options), study.rows_per_source)
    _begin(study, pool, heldout, directory)
    work = _Work(study, directory, pool, heldout, progress)
    for seed, cell in itertools.product(range(study.seeds), study.cells):
        if work.kept(cell, seed) is None:
            work.run(cell, seed)
            work.report()
    return work.report()


@dataclass(frozen=True, slots=True)
class _Work:
    study: StudyConfig
    directory: Path
    pool: Pool
    heldout: Pool
    progress: Progress

    def kept(self, cell: str, seed: int) -> CellResult | None:
        """The result of an earlier run."""
        return read_result(self.directory, cell, seed, self.study.cells[cell])

    def run(self, cell: str, seed: int) -> CellResult:
        """Select, fine-tune, evaluate, keep; the cell whose tokens this one follows goes first."""
        other = self.study.cells[cell].get(EQUAL_TOKENS)
        tokens = None if other is None else (self.kept(other, seed) or self.run(other, seed)).trained_tokens
        self.progress.note(f"cell {cell}, seed {seed}")
        evidence = Evidence(self.directory, self.pool, self.progress)
        config = self.study.run_config(cell, seed, tokens)
        subset = subset_of(config, self.study.pool, evidence, seed % self.study.gradient_seeds)
        examples = [self.pool.examples[row] for row in subset]
        ids = [example.id for example in examples]
        twin = self._twin(seed, ids)
        if twin is not None:
            self.progress.note(f"the same rows as cell {twin.cell}: its losses stand for both")
            steps, losses = twin.steps, twin.losses
        else:
            model = self._model()
            steps, losses = measure(self.study, model, self.pool, subset, self.heldout, seed, self.progress)
        trained = sum(example.trained_tokens for example in examples)
        result = CellResult(cell, seed, self.study.cells[cell], ids, trained, steps, losses)
        write_result(self.directory, result)
        return result

    def _twin(self, seed: int, ids: list[str]) -> CellResult | None:
        """A finished cell with the same rows at the same seed: fine-tuning on them again would repeat every number."""
        done = (self.kept(cell, seed) for cell in self.study.cells)
        return next((result for result in done if result is not None and result.ids == ids), None)

    def report(self) -> StudyResult:
        """Write the table and the figures of the cells that are done."""
        results = list(self._results())
        shares = Shares(
            {example.id: example.row.source for example in self.heldout.examples},
            pool_shares([example.row.source for example in self.pool.examples]),
        )
        table = lines(results, shares, self.study.baseline)
        text = markdown(table, self.study.baseline, shares.macro(self._untrained()))
        write_text(self.directory / "table.md", text)
        write_text(self.directory / "lines.json", json.dumps([asdict(line) for line in table], indent=1) + "\n")
        if table:
            figures.draw(table, self.study.baseline, self.directory)
        return StudyResult(table, text, self.directory)

    def _results(self) -> Iterator[CellResult]:
        for cell, seed in itertools.product(self.study.cells, range(self.study.seeds)):
            result = self.kept(cell, seed)
            if result is not None:
                yield result

    def _untrained(self) -> dict[str, float]:
        path = self.directory / "untrained.json"
        if not path.exists():
            self.progress.note("the untrained model")
            model = load_model(model_source(_config(str(self._model()))), "float32", pick_device("auto"))
            write_text(path, json.dumps(heldout_losses(model, self.heldout, self.progress)) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))

    def _model(self) -> Path:
        """The model as a directory: unpacking the embedded one anew for each cell would take longer than loading."""
        path = self.directory / "model"
        if not (path / "complete").exists():
            source = model_source(_config(self.study.model))
            with quiet():
                load_model(source, "float32", pick_device("cpu")).save_pretrained(path)
            load_tokenizer(source).save_pretrained(path)
            write_text(path / "complete", "")
        return path


def _config(model: str) -> RunConfig:
    return resolve({}, {"model": model})


def _begin(study: StudyConfig, pool: Pool, heldout: Pool, directory: Path) -> None:
    """Make the directory, or check that it holds this study."""
    decisive = study.model_dump(exclude=MAY_CHANGE)
    identity: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        **decisive,
        "pool": [file.sha256 for file in pool.files],
        "heldout": [file.sha256 for file in heldout.files],
    }
    path = directory / "study.json"
    if not path.exists():
        if directory.exists() and any(directory.iterdir()):
            raise OutputError(f"{directory}: is not empty and holds no study; give a new --output.")
        directory.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(identity, indent=1) + "\n")
        return
    saved = json.loads(path.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(identity))
    differing = sorted(key for key in {*saved, *wanted} if saved.get(key) != wanted.get(key))
    if differing:
        raise OutputError(
            f"{directory}: holds a study that differs in {', '.join(differing)}.\n"
            "Cells and seeds may be added to a study; for anything else give a new --output."
        )
