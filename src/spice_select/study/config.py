"""The schema of a study: which subsets are compared, on which data, by which recipe; `study --help` has an example."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    StrictBool,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from spice_select.config import RunConfig, resolve
from spice_select.config_file import read_yaml
from spice_select.errors import ConfigError
from spice_select.option_values import EMBEDDED_MODEL
from spice_select.pool.problems import one_line
from spice_select.recipe import Recipe
from spice_select.study.cells import (
    ALL_ROWS,
    CELL_KEYS,
    FULL,
    TARGET,
    check_ignored,
    check_keys,
    depends_on_target,
    with_equal_tokens,
)
from spice_select.study.presets import preset_text

READING_KEYS = {"format", "columns", "skip_invalid", "max_length"}
COMMON_KEYS = READING_KEYS | {"model", "budget", "on_bad_gradient", "gradient_memory"}
"""Options of `run` that a study gives to all its cells; the first say how files are read."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"

Inputs = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Budget = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)]


class StudyConfig(BaseModel):
    """A study: every cell is selected, fine-tuned on and evaluated once for every seed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pool: Inputs = Field(default_factory=list, description="Files, directories or hub ids to select from.")
    heldout: Inputs = Field(default_factory=list, description="Rows to measure the loss on, by their source.")
    targets: dict[str, Inputs] = Field(default_factory=dict, description="Name -> files of what rows are chosen for.")
    target_rows: int = Field(16, ge=1, description="Rows of each target that a seed draws, of its files equally.")
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
    learning_rates: list[PositiveFloat] = Field(
        default_factory=list[PositiveFloat],
        description="The recipe's rate is that of these which is best for the baseline at seed 0.",
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Of the frozen weights when tuned.")
    rows_at_once: int = Field(4, ge=1, description="Rows on a device at once while fine-tuning.")
    gradient_memory: float = Field(4.0, gt=0, description="GiB of gradients held; less means more passes.")
    baseline: str = Field("random", description="The cell that differences are taken from.")
    equal_tokens: StrictBool = Field(False, description="To each cell add random rows of as many trained tokens.")
    against: list[str] = Field(default_factory=list, description="Further cells to compare with over all targets.")
    cells: dict[str, dict[str, Any]] = Field(description="Name -> options of `run`, and those of `study.cells`.")

    @model_validator(mode="before")
    @classmethod
    def _add_equal_tokens(cls, values: Any) -> Any:
        content: Any = values
        if isinstance(values, dict) and content.get("equal_tokens") is True and _is_nested(content.get("cells")):
            return {**content, "cells": with_equal_tokens(content["cells"])}
        return content

    @model_validator(mode="after")
    def _check(self) -> "StudyConfig":
        _check_names("cell", self.cells)
        _check_names("target", self.targets)
        for name, files in self.targets.items():
            if len(set(files)) < max(1, len(files)):
                raise ValueError(f"target '{name}': name at least one file, and each file once")
            if self.target_rows % len(files):
                raise ValueError(f"target '{name}': {self.target_rows} rows are no equal parts of {len(files)} files")
        for name, cell in self.cells.items():
            self._check_cell(name, cell)
        for key, names in (("baseline", [self.baseline]), ("against", self.against)):
            if unknown := [name for name in names if name not in self.cells]:
                known = ", ".join(self.cells)[:300]
                raise ValueError(f"{key} {unknown[0][:80]!r} is not among the cells: {known}")
        if self.learning_rates and "learning_rate" in self.recipe.model_fields_set:
            raise ValueError("learning_rates chooses the recipe's learning_rate; leave one of the two out")
        if self.learning_rates and depends_on_target(self.baseline, self.cells):
            raise ValueError(f"learning_rates needs a baseline without a target; '{self.baseline}' depends on one")
        if own := self.recipe.model_fields_set & {"seed", "max_length"}:
            raise ValueError(f"recipe: '{min(own)}' is set by the study (seeds, max_length); leave it out of recipe")
        return self

    def _check_cell(self, name: str, cell: dict[str, Any]) -> None:
        check_keys(name, self.cells, self.target_rows)
        for target, files in self.targets.items():
            if self.rows_of_target(name) % len(files):
                raise ValueError(
                    f"cell '{name}': {self.rows_of_target(name)} target_rows are no equal parts of the {len(files)} "
                    f"files of target '{target}'"
                )
        try:
            config = self.run_config(name, seed=0)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        check_ignored(name, cell, config)

    def rows_of_target(self, cell: str) -> int:
        """How many rows of a target a cell draws."""
        return self.cells[cell].get("target_rows", self.target_rows)

    def run_config(self, cell: str, seed: int, tokens: int | None = None) -> RunConfig:
        """Options of `run` that make the subset of a cell at a seed; `tokens` are those of the cell that it follows.

        For a cell with a target, `target` stands for the drawn rows, and all rows are one pool.
        """
        cell_keys = ALL_ROWS if FULL in self.cells[cell] else self.cells[cell]
        own = {key: value for key, value in cell_keys.items() if key in CELL_KEYS}
        budget = {} if tokens is None else {"budget": f"{tokens}tok"}
        target = {"target": "the drawn rows", "candidates": "all"} if TARGET in self.cells[cell] else {}
        common = self.model_dump(include=COMMON_KEYS)
        return resolve({}, {**common, "seed": seed, **own, **budget, **target}, f"cell '{cell}'")


def _check_names(kind: str, names: Iterable[str]) -> None:
    for name in names:
        if not re.fullmatch(_NAME, name):
            raise ValueError(f"{kind} {name[:80]!r}: use letters, digits, '.', '_' and '-' in a name")


def load_study(path: Path, given: Mapping[str, Any] | None = None) -> StudyConfig:
    """Read a study's YAML; keys that are `given` replace its own.

    Raises `ConfigError`, which names the key, where this does not describe a study.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold 'key: value' lines; see spice-select study --help.")
    return _validated({**cast("dict[Any, Any]", content), **(given or {})}, str(path))


def load_preset(name: str, given: Mapping[str, Any]) -> StudyConfig:
    """The study of a preset, with `given` as for `load_study`; cells that need a target only where one is given."""
    content: dict[str, Any] = {**yaml.safe_load(preset_text(name)), **given}
    cells = content["cells"]
    if not given.get("targets"):
        content["cells"] = {cell: own for cell, own in cells.items() if not depends_on_target(cell, cells)}
    return _validated(content, f"preset {name}")


def _validated(content: Mapping[Any, Any], origin: str) -> StudyConfig:
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as error:
        reason = min(map(_reason, error.errors()), key=lambda text: "unknown key" not in text)
        raise ConfigError(f"{origin}: {reason.removesuffix('.')}.") from None


def _is_nested(cells: object) -> bool:
    return isinstance(cells, dict) and all(isinstance(cell, dict) for cell in cast("dict[Any, Any]", cells).values())


def _reason(error: ErrorDetails) -> str:
    place = one_line(".".join(str(part) for part in error["loc"] if part != "[key]"))
    if error["type"] == "invalid_key" or error["loc"][-1:] == ("[key]",):
        return f"key {place} is not text; put it in quotes (bare on, off, yes and no are truth values in YAML)"
    if error["type"] == "extra_forbidden":
        known = StudyConfig.model_fields if len(error["loc"]) == 1 else Recipe.model_fields
        return f"unknown key '{place}'; known: {', '.join(known)}"
    return f"{place}: ".removeprefix(": ") + error["msg"].removeprefix("Value error, ")
