"""The record of each candidate pool: its picks and their measures. Kept in the checkpoint, joined in the output."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, ClassVar, cast

import torch
from pydantic import ConfigDict
from torch import Tensor

from spice_select.information import Coverage, Selection

_CHECKED = ConfigDict(strict=True, revalidate_instances="always")  # for records read from a file


@dataclass(frozen=True, slots=True)
class AllDirections:
    """U, in nats, of the scaled gradients in all their directions, not in the principal ones that rows were chosen by.

    `random_information` is of as many random rows (of as many tokens, under a budget in tokens), `greedy_information`
    of greedy picks by gain alone in all directions; each is None where it would take long.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CHECKED
    information: float | None
    random_information: float | None
    greedy_information: float | None


@dataclass(frozen=True, slots=True)
class Measures:
    """Quantities of every row of a pool, in the pool's order, and of the pool as a whole.

    `norm` is |g_i| before scaling and `loss` the mean NLL of the response, None for states; everything else concerns
    the scaled gradients in the directions that rows were chosen by. `alpha` is absolute; `guarantee` is None where
    nothing is proven of such picks; `all_directions` is None where the choice was made in all directions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CHECKED
    norm: list[float]
    gain: list[float]
    base: list[float]
    epsilon: list[float]
    conflict: list[float]
    score: list[float]
    alpha: float
    information: float
    random_information: float
    bound: float
    certificate: float
    bound_source: str
    curvature: float
    guarantee: float | None = None
    all_directions: AllDirections | None = None
    loss: list[float] | None = None

    def largest_norms(self, count: int) -> list[int]:
        """Places of the `count` largest unscaled gradients; ties go to the lower place."""
        return sorted(range(len(self.norm)), key=lambda place: (-self.norm[place], place))[:count]


@dataclass(frozen=True, slots=True)
class TargetMeasures:
    """What the picks of a pool cover of each of t target rows; see `Coverage`.

    `start`, `picks`, `whole` and `random` are coverages [t]; `curve` is the mean coverage after each number of picks in
    `counts`. `serves` holds for each pick the places of up to three target rows whose coverage it raised most, and by
    how much. `certificate` is the target's variance that the picks explain over what the whole pool does.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CHECKED
    rule: str
    weights: list[float]
    conflict: list[float]
    start: list[float]
    picks: list[float]
    whole: list[float]
    random: list[float]
    counts: list[int]
    curve: list[float]
    serves: list[list[tuple[int, float]]]
    certificate: float

    def mean(self, coverage: Sequence[float]) -> float:
        """The weighted mean of a coverage [t]."""
        return sum(weight * value for weight, value in zip(self.weights, coverage, strict=True))


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be chosen: `row` is its example index, `reason` a short sentence such as "its loss is ..."."""

    __pydantic_config__: ClassVar[ConfigDict] = _CHECKED
    row: int
    id: str
    location: str
    reason: str


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """One finished pool.

    `rows` holds example indices of the rows that could be chosen; `picks` places in `rows`, in the order of picking;
    `bad` the rows whose loss or gradient is not finite, `leaks` those left out because they equal a target row.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CHECKED
    pool: int
    rows: list[int]
    picks: list[int]
    quota: int
    stopped_early: bool
    seconds: float
    measures: Measures | None
    bad: list[BadRow] = field(default_factory=list[BadRow])
    target: TargetMeasures | None = None
    leaks: list[BadRow] = field(default_factory=list[BadRow])

    @property
    def picked_rows(self) -> list[int]:
        """Example indices of the picks, in order."""
        return [self.rows[i] for i in self.picks]

    @property
    def all_rows(self) -> list[int]:
        """Example indices of the pool's rows; those that could not be chosen come last."""
        return [*self.rows, *(left.row for left in (*self.bad, *self.leaks))]

    def to_json(self) -> dict[str, Any]:
        """Plain values; floats survive JSON exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "PoolRecord":
        """Inverse of `to_json`."""
        plain = {key: value for key, value in data.items() if key not in ("measures", "bad", "leaks", "target")}
        bad, leaks = ([BadRow(**row) for row in data.get(key, [])] for key in ("bad", "leaks"))
        target = _target_from(data.get("target"))
        return cls(**plain, measures=_measures_from(data["measures"]), bad=bad, leaks=leaks, target=target)


def _target_from(data: dict[str, Any] | None) -> TargetMeasures | None:
    if data is None:
        return None
    serves = [[(row, share) for row, share in pick] for pick in data["serves"]]  # JSON has no tuples
    return TargetMeasures(**dict(data, serves=serves))


def _measures_from(data: dict[str, Any] | None) -> Measures | None:
    if data is None:
        return None
    everywhere = data.get("all_directions")
    plain = {key: value for key, value in data.items() if key != "all_directions"}
    return Measures(**plain, all_directions=None if everywhere is None else AllDirections(**everywhere))


def all_directions(pools: Sequence[Measures]) -> AllDirections | None:
    """Summed over `pools`; None where all choices were made in all directions."""
    if all(measures.all_directions is None for measures in pools):
        return None
    # In a pool that was not cut, the choice's own figures are those in all directions.
    each = [
        measures.all_directions or AllDirections(measures.information, measures.random_information, None)
        for measures in pools
    ]
    return AllDirections(
        _sum([one.information for one in each]),
        _sum([one.random_information for one in each]),
        _sum([one.greedy_information for one in each]),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def chosen_rows(records: Sequence[PoolRecord]) -> list[int]:
    """Example indices of all picks, in the pool's order."""
    return sorted(row for record in records for row in record.picked_rows)


def measures_of(
    selection: Selection,
    norms: Tensor,
    alpha: float,
    random_information: float,
    all_directions: AllDirections | None,
    losses: Tensor | None,
) -> Measures:
    """The measures of a pool from its selection; `norms` [m] are |g_i| before scaling, `losses` [m] of the rows."""
    per_row = {name: getattr(selection, name).tolist() for name in ("gain", "base", "epsilon", "conflict", "score")}
    certificate = selection.certificate
    return Measures(
        norm=cast(list[float], norms.tolist()),
        **per_row,
        alpha=alpha,
        information=selection.information,
        random_information=random_information,
        bound=certificate.bound,
        certificate=certificate.ratio,
        bound_source=certificate.source,
        curvature=selection.curvature,
        guarantee=selection.guarantee,
        all_directions=all_directions,
        loss=None if losses is None else cast(list[float], losses.tolist()),
    )


SERVED, POINTS = 3, 200
"""Target rows that are named for a pick; points of the curve of coverage."""


def target_measures_of(coverage: Coverage, rule: str) -> TargetMeasures:
    """The record of a `Coverage`."""
    steps = coverage.steps
    most = min(SERVED, steps.shape[1])
    best = torch.where(coverage.along, steps, 0.0).topk(most, dim=1)  # a row that a pick opposes is not served
    pairs = zip(
        cast("list[list[int]]", best.indices.tolist()), cast("list[list[float]]", best.values.tolist()), strict=True
    )
    serves = [[(row, share) for row, share in zip(rows, shares, strict=True) if share > 0] for rows, shares in pairs]
    means = coverage.mean(coverage.start) + (steps @ coverage.weights).cumsum(0)
    counts = sorted({round(i * (len(means) - 1) / (POINTS - 1)) for i in range(POINTS)}) if len(means) else []
    each = ("weights", "conflict", "start", "picks", "whole", "random")
    return TargetMeasures(
        rule=rule,
        **{name: getattr(coverage, name).tolist() for name in each},
        counts=[place + 1 for place in counts],
        curve=[float(means[place]) for place in counts],
        serves=serves,
        certificate=coverage.certificate,
    )


@dataclass(frozen=True, slots=True)
class TargetCoverage:
    """Mean coverage of the target's rows by the picks, by all rows and by as many random rows; the mean over pools.

    `certificate` is the target's variance that the picks explain over what the whole pool does, the mean over pools.
    `gains` is false where picks cover little more than random rows do: beyond the given rows, these cover at least a
    quarter of what the picks cover, which are at most a third of the way from random rows to the whole pool.
    """

    rows: int
    picks: float
    whole: float
    random: float
    certificate: float
    gains: bool


def target_coverage(records: Sequence[PoolRecord]) -> TargetCoverage | None:
    """Means over the pools of `records`; None without a target."""
    found = [record.target for record in records if record.target is not None]
    if not found:
        return None
    picks, whole, by_chance = (
        fmean(target.mean(getattr(target, name)) for target in found) for name in ("picks", "whole", "random")
    )
    certificate = fmean(target.certificate for target in found)
    start = fmean(target.mean(target.start) for target in found)
    gains = 4 * (by_chance - start) < picks - start or picks - by_chance > (whole - by_chance) / 3
    return TargetCoverage(len(found[0].weights), picks, whole, by_chance, certificate, gains)
