"""What rows are chosen for: target rows with their weights, from stores or among a pool's gradients; and leaks.

A leak is a row of the pool that equals a target row: its gradient has a cosine above `SAME`, and its text is the same
up to case and white space.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from spice_select.amounts import parse_share, parse_target
from spice_select.choices import BadRow
from spice_select.config import RunConfig
from spice_select.errors import ConfigError
from spice_select.information import FeatureRows, PartOfFeatures, Target, close_pairs
from spice_select.information.ranks import ALONE, Ranks
from spice_select.pool.examples import Example
from spice_select.pool.types import Line
from spice_select.progress import Progress
from spice_select.row_tables import Chat
from spice_select.schedule.bad_rows import NAMED, bad_row
from spice_select.schedule.common_proxy import refuse_other_proxy
from spice_select.schedule.extraction import refuse_incomparable
from spice_select.schedule.identity import as_target
from spice_select.store.reading import GradientStore

SAME = 0.98
"""Cosine from which two gradients count as the same."""


def target_weights(config: RunConfig, counts: Sequence[int]) -> Tensor:
    """Weights [t] of target rows, of which each target of `config` has so many: by the shares, or all equal."""
    shares = [parse_target(place)[1] for place in config.target]
    parts = [
        torch.full((count,), 1.0 if share is None else share / count, dtype=torch.float64)
        for share, count in zip(shares, counts, strict=True)
    ]
    return torch.cat(parts) / torch.cat(parts).sum()


def target_of(config: RunConfig, rows: Tensor, weights: Tensor) -> Target:
    """Target rows [t, d], scaled like the pool's, with what `config` says of them."""
    rank = {"auto": None, "all": len(rows)}.get(str(config.rank), config.rank)
    assert not isinstance(rank, str)
    return Target(rows, weights, parse_share(config.target_share), config.target_rule, rank)


def stop_coverage(config: RunConfig) -> float | None:
    """The share of the whole pool's coverage at which to stop, if any."""
    return None if config.stop_coverage is None else parse_share(config.stop_coverage)


def open_targets(config: RunConfig, identity: Mapping[str, Any], of: GradientStore) -> list[GradientStore]:
    """The stores that `config` names as targets of a choice from the store `of`, which has this identity.

    Raises `ConfigError` where one was made with other options or another proxy.
    """
    places = config.target_places
    like = "--features states" if of.features == "states" else f"--proxy-of {of.path}"
    for place in filter(os.path.isfile, places):
        raise ConfigError(
            f"target {place}: is a file, and a choice from a store needs a store of its own:\n"
            f"spice-select gradients {place} {like} --output DIR, then --target DIR."
        )
    stores = [GradientStore.open(place, of.device) for place in places]
    for store in stores:
        refuse_incomparable(store, as_target(identity), "target", str(of.path))
        refuse_other_proxy(store, of, "target")
    return stores


def leaks_in_store(
    store: GradientStore, kept: Sequence[int], targets: Sequence[GradientStore], ranks: Ranks = ALONE
) -> list[BadRow]:
    """Those of the rows `kept` of a store that equal a target row."""
    rows: FeatureRows = store if len(kept) == store.rows else PartOfFeatures(store, torch.tensor(kept))
    lines, found = store.listing.lines, dict[int, BadRow]()
    for target in targets:
        pairs = [(kept[place], other) for place, other in close_pairs(rows, target.block(0, target.rows), SAME, ranks)]
        close = sorted({row for row, _ in pairs} - found.keys())
        texts = dict(zip(close, store.chats(close), strict=True)) if close else {}
        wanted = target.chats(range(target.rows)) if close else []
        for row, other in pairs:
            if row in texts and row not in found and (leak := _leak(lines[row], texts[row], wanted[other])):
                found[row] = leak
    return list(found.values())


def leaks_in_gram(gram: Tensor, rows: Sequence[Example], target: Sequence[Example]) -> list[BadRow]:
    """Those of the first m rows of a Gram matrix [m + t, m + t] that equal one of the others, those of the target."""
    norms = gram.diagonal().clamp(min=0).sqrt()
    lengths = torch.outer(norms[: len(rows)], norms[len(rows) :])
    near = (gram[: len(rows), len(rows) :] >= SAME * lengths) & (lengths > 0)
    found = dict[int, BadRow]()
    for place, other in cast("list[list[int]]", near.nonzero().tolist()):
        if place not in found and (leak := _leak(rows[place], rows[place], target[other])):
            found[place] = leak
    return list(found.values())


def refuse_only_leaks(leaks: int, left: int) -> None:
    """Raise `ConfigError` where `leaks` rows are left out because they equal a target row, and no others are `left`."""
    if leaks and not left:
        raise ConfigError(
            f"all {leaks:,} rows of the pool equal a target row, so none is left to choose.\n"
            "Name a target that is not part of the pool, or let them be picked with --keep-target-rows."
        )


def report_leaks(leaks: Sequence[BadRow], config: RunConfig, progress: Progress) -> None:
    """Say which rows equal a target row, and whether they are left out."""
    if leaks:
        named = ", ".join(f"{row.location} ({row.reason})" for row in leaks[:NAMED])
        more = f" and {len(leaks) - NAMED:,} more" if len(leaks) > NAMED else ""
        done = "are kept" if config.keep_target_rows else "are left out (--keep-target-rows keeps them)"
        progress.note(f"rows of the pool that equal a target row {done}: {named}{more}")


def _leak(row: Example | Line, text: Chat, target: Chat) -> BadRow | None:
    return bad_row(row, f"equals target row {target.id}") if plain_text(text) == plain_text(target) else None


def plain_text(chat: Chat) -> str:
    """What a chat says, up to case and white space; rows with the same are equal."""
    said = (f"{message['role']} {message.get('content') or ''}" for message in chat.conversation.messages)
    return " ".join(" ".join(said).casefold().split())
