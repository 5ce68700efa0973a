"""The schema of a study: which subsets are compared, on which data, by which recipe; `study --help` has an example."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from spice_select.config import RunConfig, resolve
from spice_select.config_file import read_yaml
from spice_select.errors import ConfigError
from spice_select.methods import GRADIENT_METHODS
from spice_select.option_values import EMBEDDED_MODEL, WITHOUT_GRADIENTS
from spice_select.pool.problems import one_line
from spice_select.recipe import Recipe

EQUAL_TOKENS = "equal_tokens_to"
"""Key of a cell: take rows until their trained tokens are nearest to those of the named cell."""

READING_KEYS = {"format", "columns", "skip_invalid", "max_length"}
COMMON_KEYS = READING_KEYS | {"model", "budget", "on_bad_gradient", "gradient_memory"}
"""Options of `run` that a study gives to all its cells; the first say how files are read."""
SCORE_KEYS = {"penalty", "scale", "rank", "alpha", "alpha_mode"}
CELL_KEYS = SCORE_KEYS | {"method", "stop_ratio", "preset", "pool_size", "update_every", "warmup_steps", "budget"}
_WITHOUT = dict.fromkeys(WITHOUT_GRADIENTS, CELL_KEYS - {"method", "budget"})
IGNORED_KEYS = {"fisher": {"penalty"}, **dict.fromkeys(GRADIENT_METHODS, SCORE_KEYS), **_WITHOUT}
"""Keys of a cell that do not change what a method picks."""

Inputs = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Budget = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)]


class StudyConfig(BaseModel):
    """A study: every cell is selected, fine-tuned on and evaluated once for every seed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pool: Inputs = Field(default_factory=list, description="Files, directories or hub ids to select from.")
    heldout: Inputs = Field(default_factory=list, description="Rows to measure the loss on, by their source.")
    model: str = Field(EMBEDDED_MODEL, description="Proxy and target: hub id, directory, or the embedded default.")
    budget: Budget = Field("10%", description="Rows of each subset, unless a cell says otherwise.")
    seeds: int = Field(5, ge=1, description="Runs of each cell: shuffle of the pool, draws, fine-tuning.")
    gradient_seeds: int = Field(1, ge=1, description="Frozen proxies; run s picks by proxy s mod this number.")
    format: str | None = Field(None, description="Row format of pool and held-out files; found when not given.")
    columns: dict[str, str] = Field(default_factory=dict, description="Field of the format -> column in the files.")
    skip_invalid: bool = Field(False, description="Leave bad rows out instead of stopping.")
    on_bad_gradient: Literal["stop", "skip"] = Field("stop", description="What to do at a loss that is not finite.")
    max_length: int = Field(2048, ge=8, description="Tokens kept of a row.")
    rows_per_source: int | None = Field(None, ge=1, description="Held-out rows of each source; all when not given.")
    recipe: Recipe = Field(default_factory=Recipe, description="Fine-tuning, the same for all; its seed is the run's.")
    rows_at_once: int = Field(4, ge=1, description="Rows on a device at once while fine-tuning.")
    gradient_memory: float = Field(4.0, gt=0, description="GiB of gradients held; less means more passes.")
    baseline: str = Field("random", description="The cell that differences are taken from.")
    cells: dict[str, dict[str, Any]] = Field(description="Name -> options of `run`, or equal_tokens_to.")

    @model_validator(mode="after")
    def _check(self) -> "StudyConfig":
        for name, cell in self.cells.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"cell {name[:80]!r}: use letters, digits, '.', '_' and '-' in a name")
            self._check_cell(name, cell)
        if self.baseline not in self.cells:
            raise ValueError(f"baseline {self.baseline[:80]!r} is not among the cells: {', '.join(self.cells)[:300]}")
        if own := self.recipe.model_fields_set & {"seed", "max_length"}:
            raise ValueError(f"recipe: '{min(own)}' is set by the study (seeds, max_length); leave it out of recipe")
        return self

    def _check_cell(self, name: str, cell: dict[str, Any]) -> None:
        if unknown := cell.keys() - CELL_KEYS - {EQUAL_TOKENS}:
            raise ValueError(f"cell '{name}': unknown key {min(unknown)[:80]!r}; known: {', '.join(sorted(CELL_KEYS))}")
        if EQUAL_TOKENS in cell:
            other = cell[EQUAL_TOKENS]
            if not isinstance(other, str) or other not in self.cells or EQUAL_TOKENS in self.cells[other]:
                raise ValueError(f"cell '{name}': {EQUAL_TOKENS} must name a cell that has a budget of its own")
            if cell.get("method") not in WITHOUT_GRADIENTS:
                raise ValueError(f"cell '{name}': {EQUAL_TOKENS} goes with {', '.join(WITHOUT_GRADIENTS)}")
            if "budget" in cell:
                raise ValueError(f"cell '{name}': its budget is that of {EQUAL_TOKENS}; leave one of the two out")
        try:
            method = self.run_config(name, seed=0).method
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if ignored := cell.keys() & IGNORED_KEYS.get(method, set()):
            raise ValueError(f"cell '{name}': '{min(ignored)}' changes nothing for method {method}; leave it out")

    def run_config(self, cell: str, seed: int, tokens: int | None = None) -> RunConfig:
        """Options of `run` that make the subset of a cell at a seed; `tokens` are those of the cell that it follows."""
        own = {key: value for key, value in self.cells[cell].items() if key != EQUAL_TOKENS}
        budget = {} if tokens is None else {"budget": f"{tokens}tok"}
        return resolve({}, {**self.model_dump(include=COMMON_KEYS), "seed": seed, **own, **budget}, f"cell '{cell}'")


def load_study(path: Path) -> StudyConfig:
    """Read a study's YAML; raises `ConfigError`, which names the key, where it does not describe a study."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold 'key: value' lines; see spice-select study --help.")
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as error:
        reason = min(map(_reason, error.errors()), key=lambda text: "unknown key" not in text)
        raise ConfigError(f"{path}: {reason.removesuffix('.')}.") from None


def _reason(error: ErrorDetails) -> str:
    place = one_line(".".join(str(part) for part in error["loc"] if part != "[key]"))
    if error["type"] == "invalid_key" or error["loc"][-1:] == ("[key]",):
        return f"key {place} is not text; put it in quotes (bare on, off, yes and no are truth values in YAML)"
    if error["type"] == "extra_forbidden":
        known = StudyConfig.model_fields if len(error["loc"]) == 1 else Recipe.model_fields
        return f"unknown key '{place}'; known: {', '.join(known)}"
    return f"{place}: ".removeprefix(": ") + error["msg"].removeprefix("Value error, ")
