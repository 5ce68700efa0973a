"""What is left of a study would take: gradients that its cells share, then fine-tuning and evaluation of each cell."""

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spice_select.config import WITHOUT_GRADIENTS, WITHOUT_MODEL, RunConfig
from spice_select.costs.forecast import Forecast, in_turn
from spice_select.evaluation.checkpoint import LoadedModel, load_checkpoint
from spice_select.evaluation.forecast import forecast_evaluation
from spice_select.output.trainers import TRAIN_FILE
from spice_select.output.write_run import write_training_table  # pyright: ignore[reportUnknownVariableType]
from spice_select.prepared import Prepared
from spice_select.progress import Progress
from spice_select.proxy.loading import model_fingerprint, pick_device
from spice_select.proxy.lora import merged
from spice_select.schedule.forecast import forecast_pools, forecast_run, sized_proxy, with_warm_up
from spice_select.schedule.pools import CandidatePool
from spice_select.study.cells import kept_result
from spice_select.study.config import StudyConfig
from spice_select.study.evidence import HELD_AS, LOSSES, gram_file
from spice_select.study.identity import begun, identity_of
from spice_select.study.inputs import StudyInputs, read_inputs, reading_options
from spice_select.study.picks import pools_of, proxy_trains
from spice_select.study.run import UNTRAINED
from spice_select.training.forecast import forecast_finetune

REMEDY = "lower rows_at_once, gradient_memory or max_length, or take a smaller model"

BYTES_OF_A_NUMBER = 60
"""A held-out row's id and loss, or the id of a chosen row, in a cell's file."""


def forecast_study(study: StudyConfig, directory: Path, progress: Progress) -> Forecast:
    """Time and memory of what `run_study` would still do in `directory`; nothing is written there.

    Every cell is taken to train on rows of its own and of the pool's mean length: cells that choose the same rows, or
    short ones, take less.

    Raises:
        SpiceSelectError: as `run_study`.

    """
    inputs = read_inputs(study, progress)
    begun(directory, identity_of(study, inputs.pool, inputs.heldout, model_fingerprint(inputs.source)))
    cells = itertools.product(study.cells, range(study.seeds))
    missing = [cell for cell in cells if kept_result(study, directory, *cell) is None]
    if not missing:
        return Forecast(0, 0, 0, {}, None, None, 0, REMEDY)
    left = _Left(study, directory, inputs, missing, progress)
    loaded = load_checkpoint(study.model, pick_device("auto"), "float32")
    disk = 4 * loaded.model.num_parameters() + left.disk()
    return in_turn([*left.evidence(), left.finetuning(), left.evaluation(loaded)], disk, REMEDY)


@dataclass(frozen=True, slots=True)
class _Left:
    study: StudyConfig
    directory: Path
    inputs: StudyInputs
    missing: Sequence[tuple[str, int]]  # cell, seed
    progress: Progress

    def disk(self) -> int:
        """What the directory gains beside the model."""
        rows, numbers = len(self.inputs.pool.examples), len(self.inputs.heldout.examples)
        results = sum(BYTES_OF_A_NUMBER * (numbers + self._rows(cell)) for cell, _ in self.missing)
        grams = len(self._shared().keys() - {LOSSES})
        return 8 * rows * rows * grams + results

    def evidence(self) -> list[Forecast]:
        """Gradients and losses that are not kept yet, and whole runs of cells whose proxy trains."""
        found = [self._run(configs[0]).times(len(configs)) for configs in self._whole_runs().values()]
        shared = self._shared()
        losses = shared.pop(LOSSES, None)
        if losses is not None:
            found.append(self._run(losses))
        if shared:
            found.append(self._gram(next(iter(shared.values()))).times(len(shared)))
        return found

    def _shared(self) -> dict[str, RunConfig]:
        """Files of gradients and losses that are not there yet, and for whom."""
        files: dict[str, RunConfig] = {}
        for cell, seed in self.missing:
            config = self.study.run_config(cell, seed)
            proxy = config.model_copy(update={"seed": seed % self.study.gradient_seeds})
            if config.method in WITHOUT_GRADIENTS:
                files |= {} if config.method in WITHOUT_MODEL else {LOSSES: proxy}
            elif not proxy_trains(config, pools_of(config, self.inputs.pool)):
                files[gram_file(proxy)] = proxy
        return {name: proxy for name, proxy in files.items() if not (self.directory / name).exists()}

    def _whole_runs(self) -> dict[str, list[RunConfig]]:
        """Cells whose proxy trains in between, with their options at each seed."""
        runs: dict[str, list[RunConfig]] = {}
        for cell, seed in self.missing:
            config = self.study.run_config(cell, seed)
            if config.method not in WITHOUT_GRADIENTS and proxy_trains(config, pools_of(config, self.inputs.pool)):
                runs.setdefault(cell, []).append(config)
        return runs

    def finetuning(self) -> Forecast:
        """Of every missing cell, from one subset of the largest budget."""
        rows = [self._rows(cell) for cell, _ in self.missing]
        examples = self.inputs.pool.examples
        some: list[int] = np.random.default_rng(0).permutation(len(examples))[: max(rows)].tolist()
        recipe = self.study.recipe.model_copy(update={"max_length": self.study.max_length})
        with tempfile.TemporaryDirectory(prefix="spice-study-") as scratch:
            write_training_table(Path(scratch) / TRAIN_FILE, [examples[row] for row in some])
            found = forecast_finetune(
                scratch,
                model=self.study.model,
                recipe=recipe,
                rows_at_once=self.study.rows_at_once,
                progress=self.progress,
            )
        return found.times(sum(rows) / max(rows))

    def evaluation(self, loaded: LoadedModel) -> Forecast:
        """Of every missing cell, and of the untrained model once."""
        models = len(self.missing) + (not (self.directory / UNTRAINED).exists())
        one = forecast_evaluation(
            loaded,
            self.study.heldout,
            reading_options(self.study),
            limit_per_source=self.study.rows_per_source,
            progress=self.progress,
        )
        return one.times(models)

    def _rows(self, cell: str) -> int:
        """Rows of a cell; of a budget in tokens as many as have them on average."""
        pool = self.inputs.pool
        config = self.study.run_config(self.study.followed(cell) or cell, seed=0)
        if config.budget_tokens is None:
            return max(1, config.budget_rows(len(pool.examples), pool.trained_tokens))
        return max(1, round(config.budget_tokens / pool.trained_tokens * len(pool.examples)))

    def _prepared(self, config: RunConfig) -> Prepared:
        inputs = self.inputs
        return Prepared(config, inputs.pool, inputs.tokenizer, {}, inputs.source, pick_device(config.device))

    def _run(self, config: RunConfig) -> Forecast:
        pool = self.inputs.pool
        budget = config.budget_rows(len(pool.examples), pool.trained_tokens)
        return forecast_run(self._prepared(config), budget, self.progress)

    def _gram(self, config: RunConfig) -> Forecast:
        """One Gram matrix of the whole pool."""
        examples = self.inputs.pool.examples
        proxy = sized_proxy(self._prepared(config), self.progress)
        whole = CandidatePool(0, list(range(len(examples))), len(examples))
        with merged(proxy):
            found = forecast_pools(examples, [whole], config, proxy, held_as=HELD_AS)
        return with_warm_up(found, examples, config)
