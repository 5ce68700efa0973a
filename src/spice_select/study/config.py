"""The one schema of a study: which subsets are compared, on what, by which recipe.

pool: [pool.jsonl]
heldout: [heldout.jsonl]
budget: 10%
seeds: 5
recipe: {epochs: 2}
cells:
random: {method: random}
spice: {scale: unit}
random-tokens: {method: random, equal_tokens_to: spice}
baseline: random
"""

import re
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spice_select.config import EMBEDDED_MODEL, WITHOUT_GRADIENTS, RunConfig, resolve
from spice_select.errors import ConfigError
from spice_select.recipe import Recipe

EQUAL_TOKENS = "equal_tokens_to"
"""Key of a cell: take rows until their trained tokens are nearest to those of the named cell."""

CELL_KEYS = {
    "method", "penalty", "stop_ratio", "scale", "rank", "alpha", "alpha_mode", "preset",
    "pool_size", "update_every", "warmup_steps", "budget",
}  # fmt: skip


class StudyConfig(BaseModel):
    """A study: every cell is selected, fine-tuned on and evaluated once for every seed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pool: list[str] = Field(default_factory=list, description="Files, directories or hub ids to select from.")
    heldout: list[str] = Field(default_factory=list, description="Rows to measure the loss on, by their source.")
    model: str = Field(EMBEDDED_MODEL, description="Proxy and target: hub id, directory, or the embedded default.")
    budget: str = Field("10%", description="Rows of each subset, unless a cell says otherwise.")
    seeds: int = Field(5, ge=1, description="Runs of each cell: shuffle of the pool, draws, fine-tuning.")
    gradient_seeds: int = Field(
        1, ge=1, description="Independent proxies (LoRA's start, warm-up rows); run s uses proxy s mod this."
    )
    max_length: int = Field(2048, ge=8, description="Tokens kept of a row.")
    rows_per_source: int | None = Field(None, ge=1, description="Held-out rows of each source; all when not given.")
    recipe: Recipe = Field(default_factory=Recipe, description="Fine-tuning, the same for all; its seed is the run's.")
    rows_at_once: int = Field(4, ge=1, description="Rows on a device at once while fine-tuning.")
    gradient_memory: float = Field(4.0, gt=0, description="GiB of gradients held; less means more passes.")
    baseline: str = Field("random", description="The cell that differences are taken from.")
    cells: dict[str, dict[str, Any]] = Field(description="Name -> options of `run`, or equal_tokens_to.")

    @model_validator(mode="after")
    def _cells_make_sense(self) -> "StudyConfig":
        if self.baseline not in self.cells:
            raise ValueError(f"baseline '{self.baseline}' is not among the cells: {', '.join(self.cells)}")
        for name in self.cells:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"cell '{name}': use letters, digits, '.', '_' and '-' in a name")
            self._check_cell(name)
        return self

    def _check_cell(self, name: str) -> None:
        cell = self.cells[name]
        unknown = set(cell) - CELL_KEYS - {EQUAL_TOKENS}
        if unknown:
            raise ValueError(f"cell '{name}': unknown key '{min(unknown)}'; known: {', '.join(sorted(CELL_KEYS))}")
        other = cell.get(EQUAL_TOKENS)
        if other is not None:
            if other not in self.cells or EQUAL_TOKENS in self.cells[other]:
                raise ValueError(f"cell '{name}': {EQUAL_TOKENS} must name a cell that has a budget of its own")
            if cell.get("method") not in WITHOUT_GRADIENTS:
                raise ValueError(f"cell '{name}': {EQUAL_TOKENS} goes with {', '.join(WITHOUT_GRADIENTS)}")
        try:
            self.run_config(name, seed=0)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def run_config(self, cell: str, seed: int, tokens: int | None = None) -> RunConfig:
        """Options of `run` that make the subset of one cell and seed; `tokens` are those of the cell it follows."""
        own = {key: value for key, value in self.cells[cell].items() if key != EQUAL_TOKENS}
        if tokens is not None:
            own["budget"] = f"{tokens}tok"
        common = {
            "model": self.model,
            "budget": self.budget,
            "max_length": self.max_length,
            "gradient_memory": self.gradient_memory,
            "seed": seed,
        }
        return resolve({}, {**common, **own}, f"cell '{cell}'")


def load_study(path: Path) -> StudyConfig:
    """Read a study's YAML.

    Raises:
        ConfigError: the file is missing, no YAML, or does not describe a study; names the key.

    """
    try:
        content: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold 'key: value' lines; see spice-select study --help.")
    try:
        return StudyConfig(**cast(dict[str, Any], content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{path}: {key + ': ' if key else ''}{reason}.") from None
