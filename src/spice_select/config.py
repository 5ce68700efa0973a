"""The one schema of a run: YAML, command line and Python all end in a validated `RunConfig`."""

import re
from collections.abc import Mapping
from typing import Any, cast

from pydantic import field_validator, model_validator

from spice_select import constants
from spice_select.amounts import parse_budget, parse_quota, parse_target
from spice_select.errors import ConfigError
from spice_select.option_values import (
    AMONG_ALL,
    CANDIDATES,
    FROM_STORE,
    GREEDY,
    NEED_ALL_ROWS,
    OF_GRADIENTS,
    TARGETED,
    TRAINING,
    WHOLE_ABOVE,
    WITHOUT_GRADIENTS,
    implied,
)
from spice_select.run_options import RunOptions
from spice_select.validation import refuse_unknown, validated

Conflict = tuple[object, str]
"""What is true where options do not fit each other, and what to say then."""


class RunConfig(RunOptions):
    """Options of a run that fit each other; see `resolve`."""

    @model_validator(mode="before")
    @classmethod
    def _implied_and_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = cast(dict[str, Any], values)
        refuse_unknown(RunConfig, given, "RunConfig")
        own, method = given.get("constants", {}), str(given.get("method", RunConfig.model_fields["method"].default))
        if isinstance(own, dict) and (found := constants.resolved(method, cast(dict[Any, Any], own))):
            given = {**given, "constants": found}
        if given.get("candidates") == "auto":
            given = {key: value for key, value in given.items() if key != "candidates"}
        needed = (
            {"candidates": "all"} if method in FROM_STORE and _needs_all_rows(given) and not _updates(given) else {}
        )
        return {**needed, **implied(given), **given}

    @field_validator("update_every", "candidates", "seed", "directions", "dim", "batch_tokens", mode="before")
    @classmethod
    def _no_truth_value(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("must be a number")
        return value

    @field_validator("budget", mode="before")
    @classmethod
    def _budget_is_text(cls, value: object) -> str:
        text = str(value).strip() if not isinstance(value, bool) else ""
        parse_budget(text)
        return text

    @field_validator("layers")
    @classmethod
    def _layers_can_be_read(cls, value: str) -> str:
        if value != "all" and not re.fullmatch(r"last:[1-9]\d*", value):
            raise ValueError("must be all or last:N, e.g. last:4")
        return value

    @field_validator("quota")
    @classmethod
    def _quota_can_be_read(cls, value: dict[str, str]) -> dict[str, str]:
        for share in value.values():
            parse_quota(share)
        return value

    @model_validator(mode="after")
    def _options_fit_each_other(self) -> "RunConfig":
        for conflict, message in (
            *self._beside_methods(),
            *self._beside_targets_and_features(),
            *self._beside_limits(),
        ):
            if conflict:
                raise ValueError(message)
        return self

    def _beside_methods(self) -> list[Conflict]:
        greedy, everything, tokens = self.method in GREEDY, self.candidates == "all", self.budget_tokens is not None
        ranked, both, others = self.method in WITHOUT_GRADIENTS, " and ".join(GREEDY), ", ".join(WITHOUT_GRADIENTS)
        trains = self.method in TRAINING
        aimed, stored, all_stored = self.method in TARGETED, self.method in FROM_STORE, ", ".join(FROM_STORE)
        return [
            (self.stop_ratio and not greedy, f"stop_ratio belongs to the methods {both}, not to {self.method}"),
            (
                everything and not (stored or ranked),
                f"candidates all goes with {', '.join(FROM_STORE)}, {others}; for {self.method} give a number of rows",
            ),
            (
                self.method in AMONG_ALL and not everything,
                f"{self.method} chooses among all rows; leave candidates out, or give all",
            ),
            (self.judge and self.method != "selectit", f"judge goes with selectit, not with {self.method}"),
            (len({self.model, *self.judge}) <= len(self.judge), "judge: name each model once, and not that of --model"),
            (
                trains and self.preset is None and self.warmup_steps != RunConfig.model_fields["warmup_steps"].default,
                f"{self.method} has a warm-up of its own: leave warmup_steps out, see its constants",
            ),
            (
                aimed and not self.target,
                f"{self.method} needs a target: name examples of what to become good at (--target)",
            ),
            (
                tokens and not (ranked or everything),
                f"a budget in tokens goes with {others} or with candidates all; "
                f"{self.method} in candidate pools takes rows",
            ),
            *(
                (getattr(self, key) and not (everything and stored), f"{key} goes with candidates all and {names}")
                for key, names in (("quota", all_stored), ("exclude", all_stored), ("given", both))
            ),
            (self.balance and self.method != "random", f"balance goes with method random, not with {self.method}"),
            (self.given and aimed, f"given goes with the methods {both}, not with {self.method}"),
            (self.target and not stored, f"target goes with the methods {all_stored}, not with {self.method}"),
        ]

    def _beside_targets_and_features(self) -> list[Conflict]:
        aimed, both, all_stored = self.method in TARGETED, " and ".join(GREEDY), ", ".join(FROM_STORE)
        return [
            *(
                (
                    aimed and getattr(self, key) != RunConfig.model_fields[key].default,
                    f"{key} goes with the methods {both}, not with {self.method}",
                )
                for key in ("target_rule", "target_share", "stop_coverage")
            ),
            (
                aimed and any(parse_target(place)[1] is not None for place in self.target),
                f"shares of targets go with the methods {both}; {self.method} treats targets alike",
            ),
            (
                self.features != "gradients" and self.method not in FROM_STORE,
                f"features {self.features} goes with {all_stored}, not with {self.method}",
            ),
            (
                self.features != "gradients" and self.candidates != "all",
                f"features {self.features} goes with candidates all",
            ),
            (
                self.features == "preconditioned" and not self.warmup_steps,
                "features preconditioned needs the moments of a warm-up: give warmup_steps of at least 1",
            ),
            *(
                (
                    self.features == "states" and getattr(self, key) != RunConfig.model_fields[key].default,
                    f"{key} goes with gradients; states are those of the model as it is, in all its width",
                )
                for key in OF_GRADIENTS
            ),
            *(
                (
                    not self.target and getattr(self, key) != RunConfig.model_fields[key].default,
                    f"{key} goes with target",
                )
                for key in ("target_rule", "target_share", "stop_coverage", "keep_target_rows")
            ),
        ]

    def _beside_limits(self) -> list[Conflict]:
        tokens = self.budget_tokens is not None
        return [
            (self.stop_coverage and self.stop_ratio, "stop_coverage and stop_ratio exclude each other"),
            (self.stop_coverage and self.quota, "quota and stop_coverage exclude each other: a stop breaks shares"),
            (self.quota and tokens, "quota counts rows; give the budget in rows or percent too"),
            (self.stop_ratio and tokens, "stop_ratio compares gains of rows; give the budget in rows or percent too"),
            (self.quota and self.stop_ratio, "quota and stop_ratio exclude each other: an early stop breaks shares"),
        ]

    @property
    def last_blocks(self) -> int | None:
        """How many of the last transformer blocks have adapters; None for all."""
        return None if self.layers == "all" else int(self.layers.partition(":")[2])

    @property
    def target_places(self) -> list[str]:
        """The files, or for a pick the stores, of the targets."""
        return [parse_target(place)[0] for place in self.target]

    @property
    def budget_tokens(self) -> int | None:
        """The budget in trained tokens, where it is given so."""
        kind, value = parse_budget(self.budget)
        return int(value) if kind == "tokens" else None

    def for_pool(self, rows: int) -> "RunConfig":
        """These options, where `candidates` is auto with what it means for a pool of so many usable rows."""
        if self.candidates != "auto":
            return self
        whole = rows > WHOLE_ABOVE and self.method in GREEDY and self.preset is None and not _updates(self.model_dump())
        return self.model_copy(update={"candidates": "all" if whole else CANDIDATES})

    def budget_rows(self, rows: int, trained_tokens: int) -> int:
        """Number of rows to keep of a pool, at most; all of them when the budget is in tokens.

        Raises `ConfigError` if the budget is more than the pool holds, or rounds to nothing.
        """
        kind, value = parse_budget(self.budget)
        if kind == "tokens":
            if value > trained_tokens:
                raise ConfigError(
                    f"budget {self.budget}, but the pool holds {trained_tokens} trained tokens; "
                    f"ask for at most {trained_tokens}tok."
                )
            return rows
        wanted = int(value) if kind == "rows" else int(rows * value + 0.5)
        if wanted < 1:
            raise ConfigError(f"budget {self.budget} of {rows} rows is less than one row; ask for more.")
        if wanted > rows:
            raise ConfigError(
                f"budget {self.budget} is {wanted} rows, but the pool holds {rows} usable rows; ask for at most {rows}."
            )
        return wanted


def _updates(options: Mapping[str, Any]) -> bool:
    """Whether they ask for a training of the proxy between candidate pools, which one choice does not have."""
    usual = RunConfig.model_fields["update_every"].default
    return str(options.get("update_every", usual)) not in {str(usual), "never"}


def _needs_all_rows(given: Mapping[str, Any]) -> bool:
    return any(given.get(key) for key in NEED_ALL_ROWS) or str(given.get("budget", "")).strip().endswith("tok")


def resolve(file_values: Mapping[str, Any], given: Mapping[str, Any], origin: str = "configuration") -> RunConfig:
    """Merge preset < file, and over both the given options with a preset of theirs, and validate.

    What method and features imply comes below all of these. Constants are merged one by one; those of the file go with
    its method. Raises as `validated`.
    """
    presets = (implied(values, "preset") for values in (file_values, given))
    merged = {**next(presets), **file_values, **next(presets), **given, **_constants(file_values, given)}
    return validated(RunConfig, merged, origin)


def _constants(file_values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What becomes of constants: those of the file are under the given ones, and go where another method is given."""
    method = file_values.get("method")
    kept = method is None or given.get("method", method) == method
    of_file, own = file_values.get("constants"), given.get("constants")
    if kept and isinstance(of_file, dict) and isinstance(own, dict):
        return {"constants": {**cast(dict[Any, Any], of_file), **cast(dict[Any, Any], own)}}
    return {} if kept or own is not None else {"constants": {}}
