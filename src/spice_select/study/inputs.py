"""What a study reads before it begins: its pool, its held-out rows and which model looks at them."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from spice_select.config import RunConfig, resolve
from spice_select.errors import ConfigError
from spice_select.evaluation.heldout import limited
from spice_select.pool.examples import Pool, PoolOptions, read_pool
from spice_select.progress import Progress
from spice_select.proxy.loading import ModelSource, load_tokenizer, model_source
from spice_select.study.config import StudyConfig
from spice_select.study.remarks import overlap_remarks
from spice_select.training.plan import require_trl


@dataclass(frozen=True, slots=True)
class StudyInputs:
    """Rows of both kinds, read with the model's tokenizer; the model itself is found but not loaded."""

    source: ModelSource
    tokenizer: PreTrainedTokenizerBase
    pool: Pool
    heldout: Pool


def read_inputs(study: StudyConfig, progress: Progress) -> StudyInputs:
    """Read both, and tell about rows that are left out or overlap.

    Raises:
        ConfigError: no pool or held-out rows; a budget beyond the pool; TRL is missing.

    """
    for name in ("pool", "heldout"):
        if not getattr(study, name):
            raise ConfigError(f"the study names no {name}; add '{name}: [FILE]' to its YAML or give --{name} FILE.")
    require_trl()
    source = model_source(model_config(study.model))
    tokenizer = load_tokenizer(source)
    options = reading_options(study)
    pool = read_pool(study.pool, tokenizer, options)
    heldout = limited(read_pool(study.heldout, tokenizer, options), study.rows_per_source)
    _check_budgets(study, pool)
    _tell_about(pool, heldout, progress)
    return StudyInputs(source, tokenizer, pool, heldout)


def model_config(model: str) -> RunConfig:
    """Options that name nothing but a model."""
    return resolve({}, {"model": model})


def reading_options(study: StudyConfig) -> PoolOptions:
    """How the study's files are read."""
    return PoolOptions(study.format, study.columns, study.skip_invalid, study.max_length)


def _check_budgets(study: StudyConfig, pool: Pool) -> None:
    for cell in study.cells:
        if study.followed(cell) is not None:
            continue
        config = study.run_config(cell, seed=0)
        try:
            config.budget_rows(len(pool.examples), pool.trained_tokens)
        except ConfigError as error:
            raise ConfigError(f"cell '{cell}': {error}") from None


def _tell_about(pool: Pool, heldout: Pool, progress: Progress) -> None:
    for name, rows in (("pool", pool), ("held-out files", heldout)):
        if rows.rejected:
            progress.note(f"{len(rows.rejected):,} rows of the {name} cannot be used and are left out")
    for remark in overlap_remarks(pool, heldout):
        progress.note(remark)
