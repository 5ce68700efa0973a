"""One greedy selection over a gradient store, exact on the projected gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spice_select.choices import PoolRecord, measures_of
from spice_select.config import RunConfig
from spice_select.errors import ConfigError, ModelError
from spice_select.information import (
    FeatureRows,
    FeatureSelection,
    Moments,
    PartOfFeatures,
    ScaledFeatures,
    SelectionInputError,
    choose_rows,
    gradient_scales,
    moments_of,
    principal_directions,
    principal_rank,
    projected,
    random_draws,
)
from spice_select.information.ranks import ALONE, Ranks
from spice_select.pool.types import Line
from spice_select.progress import Progress
from spice_select.schedule.budget import choosable, limit_of, only
from spice_select.schedule.extraction import proxy_bytes
from spice_select.store.reading import GradientStore

RANDOM_DRAWS = 4
"""Random subsets averaged for the comparison with chance; each is as large as the selection."""


def choose_all(
    store: GradientStore,
    lines: Sequence[Line],
    config: RunConfig,
    given: GradientStore | None,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> tuple[PoolRecord, FeatureSelection]:
    """Choose among all rows of a store that have a finite gradient and are not excluded, within budget and quota.

    Several processes read a range of rows each and return the same.

    Raises:
        ConfigError: budget, quota, excluded ids or given rows do not fit the store.
        ModelError: no row has a finite gradient.

    """
    kept, bad = choosable(config, lines, store.squared_norms(), progress)
    limit = limit_of(config, only(lines, kept))
    try:
        seen = as_seen(store, lines, kept, limit.most, config, given, progress, ranks)
        features, before, alpha = seen.features, seen.given, seen.alpha
        penalty = 0.0 if config.method == "fisher" else config.penalty
        progress.begin("choosing", limit.most, limit.most)
        found = choose_rows(
            seen.known, limit, alpha, penalty, config.stop_ratio, before, lambda _: progress.advance(1, 1)
        )
        picks = len(found.selection.indices)
        generator = torch.Generator().manual_seed(config.seed)
        by_chance = random_draws(features, picks, alpha, RANDOM_DRAWS, generator, before, ranks)
    except SelectionInputError as error:
        raise ModelError(f"{store.path}: its gradients cannot be used ({error}).") from error
    norms = store.squared_norms()[torch.tensor(kept, device=store.device)].sqrt().cpu()
    measures = measures_of(found.selection, norms, alpha, float(by_chance.mean()))
    quota = picks if config.budget_tokens is not None else limit.most
    selection = found.selection
    record = PoolRecord(0, kept, list(selection.indices), quota, selection.stopped_early, 0.0, measures, bad)
    return record, found


@dataclass(frozen=True, slots=True)
class Seen:
    """Rows as a choice sees them: scaled, in their main directions; those that were `given` likewise."""

    features: FeatureRows
    known: Moments
    given: FeatureRows | None
    alpha: float


def as_seen(
    store: GradientStore,
    lines: Sequence[Line],
    kept: Sequence[int],
    most: int,
    config: RunConfig,
    given: GradientStore | None,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> Seen:
    """The rows `kept` of a store, from which up to `most` are chosen, and alpha in absolute terms.

    Raises:
        SelectionInputError: a number is not finite.
        ConfigError: the given rows were looked at by another proxy.

    """
    places = torch.tensor(kept, device=store.device)
    own = scaled_rows(store, lines, config)
    features: FeatureRows = own if len(kept) == store.rows else PartOfFeatures(own, places)
    before = None if given is None else _usable_rows(same_proxy(given, store), config)
    progress.note(f"looking at {features.rows:,} rows of {features.dim:,} numbers")
    known = moments_of(features, ranks)
    rank = principal_rank(most) if config.rank == "auto" else config.rank
    if rank != "all" and rank < min(features.rows, features.dim):
        directions = principal_directions(known, rank)
        features = projected(features, directions, ranks)
        before = None if before is None else projected(before, directions, ranks)
        known = moments_of(features, ranks)
    elif most * 2 >= features.dim:
        progress.note(
            f"up to {most:,} picks from gradients of {features.dim:,} numbers: with half as many picks as "
            "numbers or more, information saturates. A store of a larger --dim keeps more apart."
        )
    mean = float(ranks.broadcast(known.squared_norms.mean(), 0))
    alpha = config.alpha / mean if config.alpha_mode == "relative" and mean > 0 else config.alpha
    return Seen(features, known, before, alpha)


def scaled_rows(store: GradientStore, lines: Sequence[Line], config: RunConfig) -> ScaledFeatures:
    """The rows of `store`, of which `lines` tell the lengths, as a choice reads them."""
    lengths, squares = torch.tensor([line.trained_tokens for line in lines]), store.squared_norms()
    known = torch.where(torch.isfinite(squares), squares, 0.0)  # features of a row without a norm are zeros anyway
    return ScaledFeatures(store, gradient_scales(config.scale, lengths, known).to(store.device))


def _usable_rows(store: GradientStore, config: RunConfig) -> FeatureRows:
    """The rows of a store that have a finite gradient, scaled."""
    rows, finite = scaled_rows(store, store.listing.lines, config), torch.isfinite(store.squared_norms())
    return rows if bool(finite.all()) else PartOfFeatures(rows, finite.nonzero()[:, 0])


def same_proxy(given: GradientStore, store: GradientStore) -> GradientStore:
    """`given`, if its gradients are those of the very proxy of `store`."""
    if proxy_bytes(store) != proxy_bytes(given):
        raise ConfigError(
            f"given {given.path}: its proxy was warmed up on other rows than that of {store.path}.\n"
            f"Make it again, in another directory, with --proxy-of {store.path}."
        )
    return given
