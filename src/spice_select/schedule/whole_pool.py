"""One greedy selection over a gradient store, exact on the projected gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spice_select.choices import AllDirections, PoolRecord, measures_of, target_measures_of
from spice_select.config import RunConfig
from spice_select.errors import ModelError
from spice_select.information import (
    FeatureRows,
    Limit,
    Moments,
    PartOfFeatures,
    ScaledFeatures,
    Selection,
    SelectionInputError,
    TargetedPool,
    choose_for_target,
    choose_rows,
    gradient_scales,
    moments_of,
    principal_directions,
    principal_rank,
    projected,
    random_draws,
    read_target,
    second_moment,
    subset_information,
    targeted,
)
from spice_select.information.ranks import ALONE, Ranks
from spice_select.methods import FOR_TARGET, Aim
from spice_select.option_values import TARGETED, factor_of
from spice_select.pool.types import Line
from spice_select.progress import Progress
from spice_select.schedule.budget import choosable, limit_of, lines_at
from spice_select.schedule.common_proxy import refuse_other_proxy
from spice_select.schedule.targets import (
    leaks_in_store,
    refuse_only_leaks,
    report_leaks,
    stop_coverage,
    target_of,
    target_weights,
)
from spice_select.store.reading import GradientStore

LITTLE_WORK = 2e10
"""Products of numbers up to which information is also computed in all directions: a few seconds."""

STORE_DRAWS = 4
"""Random subsets averaged for the comparison with chance; each is as large as the selection."""


def choose_from_store(
    store: GradientStore,
    config: RunConfig,
    given: GradientStore | None,
    targets: Sequence[GradientStore],
    progress: Progress,
    ranks: Ranks = ALONE,
) -> PoolRecord:
    """Choose among all rows of a store that have a finite gradient and are not excluded, within budget and quota.

    `targets` are stores of what rows are chosen for, one for each target of `config`; rows that equal one of theirs
    are left out, unless `config` keeps them. Several processes read a range of rows each and return the same choice.

    Raises:
        ConfigError: budget, quota, excluded ids or given rows do not fit the store.
        ModelError: no row has a finite gradient.

    """
    lines = store.listing.lines
    kept, bad = choosable(config, lines, store.squared_norms(), progress)
    leaks = leaks_in_store(store, kept, targets)
    report_leaks(leaks, config, progress)
    leaks = [] if config.keep_target_rows else leaks
    kept = sorted({*kept} - {row.row for row in leaks}) if leaks else kept
    refuse_only_leaks(len(leaks), len(kept))
    limit = limit_of(config, lines_at(lines, kept))
    try:
        pool = scaled_pool(store, lines, kept, limit.most, config, given, targets, progress, ranks)
        progress.begin("choosing", limit.most, limit.most)
        order = _order(pool, [store.rows for store in targets], limit, config, progress)
        selection = _select(pool, limit, config, progress, order)
        picks = len(selection.indices)
        generator = torch.Generator().manual_seed(config.seed)
        by_chance = random_draws(
            pool.features, limit, selection.indices, pool.alpha, STORE_DRAWS, generator, pool.given, ranks
        )
        within = limit.as_large(selection.indices) if selection.stopped_early else limit
        everywhere = _in_all_directions(pool, within, selection.indices, generator, ranks)
    except SelectionInputError as error:
        raise ModelError(f"{store.path}: its {store.noun}s cannot be used ({error}).") from error
    norms = store.squared_norms()[torch.tensor(kept, device=store.device)].sqrt().cpu()
    known = store.losses()
    losses = None if known is None else known[kept]
    measures = measures_of(selection, norms, pool.alpha, float(by_chance.mean()), everywhere, losses)
    quota = picks if config.budget_tokens is not None else limit.most
    rule = config.method if config.method in TARGETED else config.target_rule
    covered = None if selection.coverage is None else target_measures_of(selection.coverage, rule)
    return PoolRecord(
        0, kept, list(selection.indices), quota, selection.stopped_early, 0.0, measures, bad, covered, leaks
    )  # fmt: skip


def _order(pool: "ScaledPool", counts: Sequence[int], limit: Limit, config: RunConfig, progress: Progress) -> list[int]:
    """The picks of a method with a rule of its own for targets of so many rows; none for the others."""
    if pool.targeted is None or config.method not in TARGETED:
        return []
    rows, whole = torch.split(pool.targeted.target.rows, [*counts]), pool.targeted.uncut
    aim = Aim(
        whole.features, rows, limit, config.seed, config.constants, whole.ranks,
        lambda _: progress.advance(1, 1), progress.note,
    )  # fmt: skip
    return FOR_TARGET[config.method](aim)


def _select(pool: "ScaledPool", limit: Limit, config: RunConfig, progress: Progress, order: Sequence[int]) -> Selection:
    penalty = 0.0 if config.method == "fisher" else config.penalty

    def on_pick(_: int) -> None:
        progress.advance(1, 1)

    if pool.targeted is None:
        return choose_rows(pool.moments, limit, pool.alpha, penalty, config.stop_ratio, pool.given, on_pick)
    stops = config.stop_ratio, stop_coverage(config)
    return choose_for_target(pool.targeted, limit, pool.alpha, penalty, *stops, config.seed, on_pick, order)


@dataclass(frozen=True, slots=True)
class ScaledPool:
    """Rows of a store for a choice: scaled, in their principal directions; `given` rows likewise; absolute alpha.

    `uncut` are the rows, and the given ones, in all directions; None where the choice is made in all. With a target,
    rows are directed by it, as `targeted` holds them.
    """

    features: FeatureRows
    moments: Moments
    given: FeatureRows | None
    alpha: float
    uncut: tuple[FeatureRows, FeatureRows | None] | None
    targeted: TargetedPool | None


def scaled_pool(
    store: GradientStore,
    lines: Sequence[Line],
    kept: Sequence[int],
    most: int,
    config: RunConfig,
    given: GradientStore | None,
    targets: Sequence[GradientStore],
    progress: Progress,
    ranks: Ranks = ALONE,
) -> ScaledPool:
    """The rows `kept` of a store, from which up to `most` are chosen.

    Raises `SelectionInputError` where a value is not finite, `ConfigError` where `given` comes from another proxy.
    """
    if given is not None:
        refuse_other_proxy(given, store, "given")
    own = _scaled_rows(store, lines, config)
    places = torch.tensor(kept, device=store.device)
    features: FeatureRows = own if len(kept) == store.rows else PartOfFeatures(own, places)
    before = None if given is None else _usable_rows(given, config)
    progress.note(f"reading {features.rows:,} rows of {features.dim:,} dimensions")
    moments = moments_of(features, ranks)
    rank = principal_rank(most) if config.directions == "auto" else config.directions
    uncut, aimed = None, _targeted(moments, before, targets, config)
    length = moments.squared_norms.mean()
    if aimed is not None:
        uncut, moments, before = (features, before), aimed.moments, aimed.given
        features = moments.features
    elif rank != "all" and rank < min(features.rows, features.dim):
        uncut, directions = (features, before), principal_directions(moments, rank)
        features = projected(features, directions, ranks)
        before = None if before is None else projected(before, directions, ranks)
        moments = moments_of(features, ranks)
        length = moments.squared_norms.mean()
    elif most * 2 >= features.dim:
        remedy = "A store of gradients" if store.features == "states" else "A store with a larger --dim"
        progress.note(
            f"up to {most:,} picks from {store.noun}s of {features.dim:,} dimensions: information saturates when there "
            f"are more than half as many picks as dimensions. {remedy} avoids that."
        )
    mean = float(ranks.broadcast(length, 0))
    alpha = config.fisher_alpha / mean if config.fisher_alpha_mode == "relative" and mean > 0 else config.fisher_alpha
    return ScaledPool(features, moments, before, alpha, uncut, aimed)


def _targeted(
    moments: Moments, given: FeatureRows | None, targets: Sequence[GradientStore], config: RunConfig
) -> TargetedPool | None:
    if not targets:
        return None
    rows = torch.cat([_scaled_rows(store, store.listing.lines, config).block(0, store.rows) for store in targets])
    target = target_of(config, rows, target_weights(config, [store.rows for store in targets]))
    return targeted(moments, read_target(target, moments.features.dim, moments.features.device), given)


def _in_all_directions(
    pool: ScaledPool, limit: Limit, picks: Sequence[int], generator: torch.Generator, ranks: Ranks
) -> AllDirections | None:
    """Of `picks`, random rows and greedy ones; each only where it takes little beside the choice itself."""
    if pool.uncut is None:
        return None
    features, given = pool.uncut
    products = len(picks) * features.dim  # of picks with dimensions
    # Beside given rows, information is a determinant of d x d, once for each subset.
    work = products * min(len(picks), features.dim) if given is None else 4 * features.dim**3
    if work > LITTLE_WORK:
        return AllDirections(None, None, None)
    before = None if given is None else second_moment(given, ranks)
    rows = torch.tensor(picks, device=features.device)
    by_chance = random_draws(features, limit, picks, pool.alpha, STORE_DRAWS, generator, given, ranks)
    greedily = None
    if products * features.rows <= LITTLE_WORK:
        greedily = choose_rows(moments_of(features), limit, pool.alpha, 0.0, None, given).information
    return AllDirections(subset_information(features, rows, pool.alpha, before), float(by_chance.mean()), greedily)


def _scaled_rows(store: GradientStore, lines: Sequence[Line], config: RunConfig) -> ScaledFeatures:
    lengths, squares = torch.tensor([line.trained_tokens for line in lines]), store.squared_norms()
    known = torch.where(torch.isfinite(squares), squares, 0.0)  # features of a row without a norm are zeros anyway
    return ScaledFeatures(
        store, gradient_scales(factor_of(config.scale, config.features), lengths, known).to(store.device)
    )


def _usable_rows(store: GradientStore, config: RunConfig) -> FeatureRows:
    rows, finite = _scaled_rows(store, store.listing.lines, config), torch.isfinite(store.squared_norms())
    return rows if bool(finite.all()) else PartOfFeatures(rows, finite.nonzero()[:, 0])
