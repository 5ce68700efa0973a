"""The choice inside one candidate pool: the method's picks on its Gram matrix, and the quantities of each row."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from spice_select.choices import AllDirections, BadRow, PoolRecord, measures_of, target_measures_of
from spice_select.config import RunConfig
from spice_select.errors import ModelError
from spice_select.information import (
    Gram,
    RowLimit,
    Selection,
    SelectionInputError,
    TargetedPool,
    choose_for_target,
    gradient_scales,
    information,
    principal_gram,
    principal_rank,
    random_draws,
    random_information,
    relative_alpha,
    scale_gram,
    select_from_gram,
    select_in_order,
    targeted_gram,
)
from spice_select.methods import GRADIENT_METHODS
from spice_select.option_values import factor_of
from spice_select.pool.examples import Example
from spice_select.pool.types import Line
from spice_select.schedule.bad_rows import bad_rows
from spice_select.schedule.pools import CandidatePool
from spice_select.schedule.targets import stop_coverage, target_of

POOL_DRAWS = 16
"""Random subsets averaged for the comparison 'U against random of the same size'."""


def pick_among_usable(
    pool: CandidatePool,
    gram: Tensor,
    rows: Sequence[Example] | Sequence[Line],
    config: RunConfig,
    seconds: float,
    target: Sequence[Example] | Sequence[Line] = (),
    weights: Tensor | None = None,
    losses: Tensor | None = None,
    leaks: Sequence[BadRow] = (),
) -> tuple[PoolRecord, Tensor]:
    """As `pick_in_pool` on the pool's `rows` [m], without those that are marked in its Gram matrix, and `leaks`.

    `gram` holds the rows of the `target` [t], with their `weights`, after the pool's; marked rows of the target count
    for nothing. `losses` [m] are for the record. Returns the record, and the Gram matrix of the rows that could be
    chosen, and of the target.
    """
    size = len(rows)
    marked = ~torch.isfinite(gram.diagonal())
    unknown = marked.clone()
    unknown[:size] = False
    gram = gram.masked_fill(unknown[:, None] | unknown[None, :], 0.0)
    bad, equal = bad_rows(rows, gram.diagonal()[:size]), {leak.row for leak in leaks}
    marked[:size] |= torch.tensor([row.index in equal for row in rows])
    good = (~marked | unknown).nonzero()[:, 0]
    places = [place for place in cast(list[int], good.tolist()) if place < size]
    left, usable = replace(pool, rows=[pool.rows[place] for place in places]), gram[good][:, good]
    if not places:
        return PoolRecord(pool.index, [], [], pool.quota, False, seconds, None, bad, None, [*leaks]), usable
    lengths = [*(rows[place].trained_tokens for place in places), *(row.trained_tokens for row in target)]
    known = None if losses is None else losses[places]
    record = pick_in_pool(left, usable, lengths, config, seconds, weights, known)
    return replace(record, bad=bad, leaks=[*leaks]), usable


def pick_in_pool(
    pool: CandidatePool,
    gram: Tensor,
    lengths: Sequence[int],
    config: RunConfig,
    seconds: float,
    weights: Tensor | None = None,
    losses: Tensor | None = None,
) -> PoolRecord:
    """Pick the pool's quota, or all its rows, on its Gram matrix [m, m] (unscaled); `lengths` are trained tokens [m].

    With `weights` [t] of target rows, these come last in `gram` [m + t, m + t] and in `lengths`. `seconds` is what the
    gradients took, for the record, as are the rows' `losses` [m]. Raises `ModelError` where gradients cannot be used.
    """
    try:
        record = _pick(pool, gram, lengths, config, weights, losses)
    except SelectionInputError as error:
        raise ModelError(
            f"candidate pool {pool.index}: the proxy's gradients cannot be used ({error}).\n"
            "Try --dtype float32, a lower --learning-rate, or another --model."
        ) from error
    return replace(record, seconds=seconds)


def _pick(
    pool: CandidatePool,
    gram: Tensor,
    lengths: Sequence[int],
    config: RunConfig,
    weights: Tensor | None,
    losses: Tensor | None,
) -> PoolRecord:
    size, whole = len(pool.rows), scaled_gram_of(gram, lengths, config)
    quota, uncut = min(pool.quota, size), whole if weights is None else whole.part(size)
    generator, covered = torch.Generator().manual_seed(config.seed + pool.index), None
    if weights is None:
        scaled = cut_gram_of(uncut, pool.quota, config)
        alpha = _alpha(scaled, config)
        selection = _select(scaled, gram, quota, alpha, config)
        by_chance = random_information(scaled, len(selection.indices), alpha, POOL_DRAWS, generator)
    else:
        scaled, aimed, alpha = None, targeted_pool(whole, size, weights, config), _alpha(uncut, config)
        penalty, stops = (
            0.0 if config.method == "fisher" else config.penalty,
            (config.stop_ratio, stop_coverage(config)),
        )
        selection = choose_for_target(aimed, RowLimit(quota), alpha, penalty, *stops, config.seed + pool.index)
        draws = (aimed.moments.features, RowLimit(quota), selection.indices, alpha, POOL_DRAWS, generator)
        by_chance = float(random_draws(*draws).mean())
        assert selection.coverage is not None
        covered = target_measures_of(selection.coverage, config.target_rule)
    picks = list(selection.indices)
    everywhere = None if scaled is uncut else _in_all_directions(uncut, picks, alpha, generator)
    norms = gram.diagonal()[:size].clamp(min=0).sqrt()
    measures = measures_of(selection, norms, alpha, by_chance, everywhere, losses)
    stopped = selection.stopped_early
    return PoolRecord(pool.index, pool.rows, picks, pool.quota, stopped, 0.0, measures, target=covered)


def targeted_pool(scaled: Gram, rows: int, weights: Tensor, config: RunConfig) -> TargetedPool:
    """The pool of the first `rows` rows of a Gram matrix of scaled gradients, whose others are the target's."""
    return targeted_gram(scaled, rows, target_of(config, scaled.matrix[rows:], weights))


def _alpha(scaled: Gram, config: RunConfig) -> float:
    return (
        relative_alpha(scaled, config.fisher_alpha) if config.fisher_alpha_mode == "relative" else config.fisher_alpha
    )


def scaled_gram_of(gram: Tensor, lengths: Sequence[int], config: RunConfig) -> Gram:
    """Gram matrix [m, m] of scaled gradients, from that of the gradients themselves."""
    return scale_gram(
        gram, gradient_scales(factor_of(config.scale, config.features), torch.tensor(lengths), gram.diagonal())
    )


def cut_gram_of(scaled: Gram, quota: int, config: RunConfig) -> Gram:
    """Gram matrix [m, m] of scaled gradients in the principal directions in which `quota` rows are picked."""
    if config.directions == "all":
        return scaled
    return principal_gram(scaled, principal_rank(quota) if config.directions == "auto" else config.directions)


def _in_all_directions(uncut: Gram, picks: Sequence[int], alpha: float, generator: torch.Generator) -> AllDirections:
    return AllDirections(
        information(uncut, picks, alpha),
        random_information(uncut, len(picks), alpha, POOL_DRAWS, generator),
        select_from_gram(uncut, len(picks), alpha, 0.0).information,
    )


def _select(scaled: Gram, gram: Tensor, quota: int, alpha: float, config: RunConfig) -> Selection:
    if config.method in GRADIENT_METHODS:
        return select_in_order(scaled, GRADIENT_METHODS[config.method](gram, quota), alpha, config.penalty)
    penalty = 0.0 if config.method == "fisher" else config.penalty
    return select_from_gram(scaled, quota, alpha, penalty, config.stop_ratio)
