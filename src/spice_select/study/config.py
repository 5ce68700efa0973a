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

A cell has options of `run`, or follows the tokens of another.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from spice_select.config import EMBEDDED_MODEL, WITHOUT_GRADIENTS, RunConfig, resolve
from spice_select.config_file import read_yaml
from spice_select.errors import ConfigError
from spice_select.methods import GRADIENT_METHODS
from spice_select.recipe import Recipe

EQUAL_TOKENS = "equal_tokens_to"
"""Key of a cell: take rows until their trained tokens are nearest to those of the named cell."""

CELL_KEYS = {
    "method", "penalty", "stop_ratio", "scale", "rank", "alpha", "alpha_mode", "preset",
    "pool_size", "update_every", "warmup_steps", "budget",
}  # fmt: skip
SCORE_KEYS = {"penalty", "scale", "rank", "alpha", "alpha_mode"}
"""What only the greedy choice looks at; the other methods with gradients pick by the raw ones."""
SET_BY_STUDY = {"seed": "each run has its own", "max_length": "give max_length beside recipe"}
"""Keys of the recipe that the study sets, and why or where."""


class StudyConfig(BaseModel):
    """A study: every cell is selected, fine-tuned on and evaluated once for every seed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pool: list[str] = Field(default_factory=list, description="Files, directories or hub ids to select from.")
    heldout: list[str] = Field(default_factory=list, description="Rows to measure the loss on, by their source.")
    model: str = Field(EMBEDDED_MODEL, description="Proxy and target: hub id, directory, or the embedded default.")
    budget: str = Field("10%", description="Rows of each subset, unless a cell says otherwise.")
    seeds: int = Field(5, ge=1, description="Runs of each cell: shuffle of the pool, draws, fine-tuning.")
    gradient_seeds: int = Field(
        1,
        ge=1,
        description="Independent proxies (LoRA's start, warm-up rows); run s uses proxy s mod this, or proxy s where "
        "the proxy trains in between.",
    )
    format: str | None = Field(None, description="Row format of pool and held-out files; found when not given.")
    columns: dict[str, str] = Field(default_factory=dict, description="Field of the format -> column in the files.")
    skip_invalid: bool = Field(False, description="Leave bad rows out instead of stopping.")
    on_bad_gradient: Literal["stop", "skip"] = Field(
        "stop", description="A row whose loss or gradient is not finite: stop, or go on without it."
    )
    max_length: int = Field(2048, ge=8, description="Tokens kept of a row.")
    rows_per_source: int | None = Field(None, ge=1, description="Held-out rows of each source; all when not given.")
    recipe: Recipe = Field(default_factory=Recipe, description="Fine-tuning, the same for all; its seed is the run's.")
    rows_at_once: int = Field(4, ge=1, description="Rows on a device at once while fine-tuning.")
    gradient_memory: float = Field(4.0, gt=0, description="GiB of gradients held; less means more passes.")
    baseline: str = Field("random", description="The cell that differences are taken from.")
    cells: dict[str, dict[str, Any]] = Field(description="Name -> options of `run`, or equal_tokens_to.")

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = cast(dict[object, object], values)
        _refuse_odd_keys(given, "")
        for key in cast(dict[str, object], given):
            if key not in cls.model_fields:
                close = difflib.get_close_matches(key, cls.model_fields, n=1, cutoff=0.4)
                known = f"did you mean '{close[0]}'?" if close else f"valid keys: {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown key '{key}'; {known}")
        return given

    @field_validator("pool", "heldout", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("budget", mode="before")
    @classmethod
    def _number_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("recipe")
    @classmethod
    def _leaves_the_study_its_own(cls, value: Recipe) -> Recipe:
        for key, reason in SET_BY_STUDY.items():
            if key in value.model_fields_set:
                raise ValueError(f"'{key}' is set by the study ({reason}); leave it out of recipe")
        return value

    @model_validator(mode="after")
    def _cells_make_sense(self) -> "StudyConfig":
        for name in self.cells:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"cell {name[:80]!r}: use letters, digits, '.', '_' and '-' in a name")
            self._check_cell(name)
        if self.baseline not in self.cells:
            raise ValueError(f"baseline {self.baseline[:80]!r} is not among the cells: {', '.join(self.cells)[:300]}")
        return self

    def _check_cell(self, name: str) -> None:
        cell = self.cells[name]
        unknown = set(cell) - CELL_KEYS - {EQUAL_TOKENS}
        if unknown:
            raise ValueError(f"cell '{name}': unknown key {min(unknown)[:80]!r}; known: {', '.join(sorted(CELL_KEYS))}")
        if EQUAL_TOKENS in cell:
            self._check_following(name, cell)
        try:
            method = self.run_config(name, seed=0).method
        except ConfigError as error:
            raise ValueError(str(error)) from None
        ignored = set(cell) & _ignored_by(method)
        if ignored:
            raise ValueError(f"cell '{name}': '{min(ignored)}' changes nothing for method {method}; leave it out")

    def _check_following(self, name: str, cell: Mapping[str, Any]) -> None:
        other = cell[EQUAL_TOKENS]
        if not isinstance(other, str) or other not in self.cells or EQUAL_TOKENS in self.cells[other]:
            raise ValueError(f"cell '{name}': {EQUAL_TOKENS} must name a cell that has a budget of its own")
        if cell.get("method") not in WITHOUT_GRADIENTS:
            raise ValueError(f"cell '{name}': {EQUAL_TOKENS} goes with {', '.join(WITHOUT_GRADIENTS)}")
        if "budget" in cell:
            raise ValueError(f"cell '{name}': its budget is that of {EQUAL_TOKENS}; leave one of the two out")

    def followed(self, cell: str) -> str | None:
        """Name of the cell whose trained tokens this one takes, if any."""
        return self.cells[cell].get(EQUAL_TOKENS)

    def run_config(self, cell: str, seed: int, tokens: int | None = None) -> RunConfig:
        """Options of `run` that make the subset of one cell and seed; `tokens` are those of the cell it follows."""
        own = {key: value for key, value in self.cells[cell].items() if key != EQUAL_TOKENS}
        if tokens is not None:
            own["budget"] = f"{tokens}tok"
        common = {
            "model": self.model,
            "budget": self.budget,
            "format": self.format,
            "columns": self.columns,
            "skip_invalid": self.skip_invalid,
            "on_bad_gradient": self.on_bad_gradient,
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
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold 'key: value' lines; see spice-select study --help.")
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        end = "" if reason.endswith((".", "?")) else "."
        raise ConfigError(f"{path}: {key + ': ' if key else ''}{reason}{end}") from None


def _refuse_odd_keys(values: dict[object, object], where: str) -> None:
    """YAML makes numbers, dates and truth values of some bare words, also where they are names."""
    for key, value in values.items():
        if not isinstance(key, str):
            hint = " (bare on, off, yes and no are truth values in YAML)" if isinstance(key, bool) else ""
            raise ValueError(f"{where}key {key!r} is no text; put the name into quotes{hint}")
        if isinstance(value, dict):
            _refuse_odd_keys(cast(dict[object, object], value), f"{where}{key}: ")


def _ignored_by(method: str) -> set[str]:
    """Keys of a cell that do not change what `method` picks."""
    if method in WITHOUT_GRADIENTS:
        return CELL_KEYS - {"method", "budget"}
    if method in GRADIENT_METHODS:
        return SCORE_KEYS
    return {"penalty"} if method == "fisher" else set()
