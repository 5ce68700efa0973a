"""The constants of methods: their names, limits, and the values of the papers as defaults.

They are declared here and not beside the functions, so that help and mistakes need no torch.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator


class Constants(BaseModel):
    """Constants of a method."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("must be a number")
        return value


class Tsds(Constants):
    """Of an optimal transport plan: see `methods.tsds`."""

    alpha: float = Field(0.5, ge=0, le=1, description="Weight of distance against concentration.")
    C: float = Field(5.0, gt=0, description="Scale of distances.")
    sigma: float = Field(0.75, ge=0, description="Width of the kernel of density; 0: all rows are equally crowded.")


class SelectIt(Constants):
    """Of the ratings: see `methods.selectit`."""

    K: int = Field(5, ge=1, le=9, description="Rating prompts.")
    a: float = Field(0.2, ge=0, description="Weight of the spread over rating prompts.")


class Lead(Constants):
    """Of a warm-up, and of rounds of training: see `methods.lead` and `schedule.lead`."""

    warmup_share: float = Field(0.01, gt=0, le=1, description="Rows of the warm-up, a share of the pool; at least 60.")
    warmup_passes: int = Field(4, ge=1, description="Passes over the rows of the warm-up.")
    clusters: int = Field(7, ge=1, description="Clusters of rows by instruction-following difficulty.")
    exploration: float = Field(0.1, gt=0, le=1, description="Share of the bandit's draws that is uniform.")
    share: float = Field(0.015, gt=0, le=1, description="Share of a source's open rows in a cluster for a round.")
    most_uses: int = Field(4, ge=1, description="Rounds that a row is in, at most.")


CONSTANTS: dict[str, type[Constants]] = {"tsds": Tsds, "selectit": SelectIt, "lead": Lead}
"""Name of a method -> its constants; methods that are not here have none."""


def listed(method: str) -> str:
    """The constants of a method with their defaults: `alpha 0.5, C 5, sigma 0.75`."""
    return ", ".join(f"{name} {field.default:g}" for name, field in CONSTANTS[method].model_fields.items())


def help_text(methods: Iterable[str] = CONSTANTS) -> str:
    """What a user can set of these methods, for the help of an option."""
    of_each = "; ".join(f"{method}: {listed(method)}" for method in methods if method in CONSTANTS)
    return f"Constant of the method, in place of its default. {of_each}."


def resolved(method: str, given: Mapping[Any, Any]) -> dict[str, Any]:
    """All constants of a method, the `given` ones over the defaults.

    Raises `ValueError`, a line that lists the method's constants, for an unknown name or a value out of range.
    """
    if method not in CONSTANTS:
        if given:
            raise ValueError(f"constants: {method} has none; leave them out")
        return {}
    try:
        return CONSTANTS[method].model_validate({str(name): value for name, value in given.items()}).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        name, known = first["loc"][0], f"its constants: {listed(method)}"
        if first["type"] == "extra_forbidden":
            raise ValueError(f"{method} has no constant {str(name)[:80]!r}; {known}") from None
        reason = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"constant {name} of {method}: {reason} (got {str(first['input'])[:80]}); {known}") from None
