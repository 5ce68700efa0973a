"""The choice inside one candidate pool: the method's picks on its Gram matrix, and the quantities of each row."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from spice_select.choices import AllDirections, PoolRecord, measures_of
from spice_select.config import RunConfig
from spice_select.errors import ModelError
from spice_select.information import (
    Gram,
    Selection,
    SelectionInputError,
    gradient_scales,
    information,
    principal_gram,
    principal_rank,
    random_information,
    relative_alpha,
    scale_gram,
    select_from_gram,
    select_in_order,
)
from spice_select.methods import GRADIENT_METHODS
from spice_select.pool.examples import Example
from spice_select.schedule.bad_rows import bad_rows
from spice_select.schedule.pools import CandidatePool

POOL_DRAWS = 16
"""Random subsets averaged for the comparison 'U against random of the same size'."""


def pick_among_usable(
    pool: CandidatePool, gram: Tensor, rows: Sequence[Example], config: RunConfig, seconds: float
) -> tuple[PoolRecord, Tensor]:
    """As `pick_in_pool` on the pool's `rows` [m], without those that are marked in its Gram matrix.

    Returns the record, and the Gram matrix of the rows that could be chosen.
    """
    bad = bad_rows(rows, gram.diagonal())
    good = torch.isfinite(gram.diagonal()).nonzero()[:, 0]
    places = cast(list[int], good.tolist())
    left, usable = replace(pool, rows=[pool.rows[place] for place in places]), gram[good][:, good]
    if not places:
        return PoolRecord(pool.index, [], [], pool.quota, False, seconds, None, bad), usable
    record = pick_in_pool(left, usable, [rows[place].trained_tokens for place in places], config, seconds)
    return replace(record, bad=bad), usable


def pick_in_pool(
    pool: CandidatePool, gram: Tensor, lengths: Sequence[int], config: RunConfig, seconds: float
) -> PoolRecord:
    """Pick the pool's quota, or all its rows, on its Gram matrix [m, m] (unscaled); `lengths` are trained tokens [m].

    `seconds` is what the gradients took, for the record. Raises `ModelError` where the gradients cannot be used.
    """
    try:
        uncut = scaled_gram_of(gram, lengths, config)
        scaled = cut_gram_of(uncut, pool.quota, config)
        alpha = relative_alpha(scaled, config.alpha) if config.alpha_mode == "relative" else config.alpha
        selection = _select(scaled, gram, min(pool.quota, len(gram)), alpha, config)
        picks, generator = list(selection.indices), torch.Generator().manual_seed(config.seed + pool.index)
        by_chance = random_information(scaled, len(picks), alpha, POOL_DRAWS, generator)
        everywhere = None if scaled is uncut else _in_all_directions(uncut, picks, alpha, generator)
    except SelectionInputError as error:
        raise ModelError(
            f"candidate pool {pool.index}: the proxy's gradients cannot be used ({error}).\n"
            "Try --dtype float32, a lower --learning-rate, or another --model."
        ) from error
    measures = measures_of(selection, gram.diagonal().clamp(min=0).sqrt(), alpha, by_chance, everywhere)
    return PoolRecord(pool.index, pool.rows, picks, pool.quota, selection.stopped_early, seconds, measures)


def scaled_gram_of(gram: Tensor, lengths: Sequence[int], config: RunConfig) -> Gram:
    """Gram matrix [m, m] of scaled gradients, from that of the gradients themselves."""
    return scale_gram(gram, gradient_scales(config.scale, torch.tensor(lengths), gram.diagonal()))


def cut_gram_of(scaled: Gram, quota: int, config: RunConfig) -> Gram:
    """Gram matrix [m, m] of scaled gradients in the principal directions in which `quota` rows are picked."""
    if config.rank == "all":
        return scaled
    return principal_gram(scaled, principal_rank(quota) if config.rank == "auto" else config.rank)


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
