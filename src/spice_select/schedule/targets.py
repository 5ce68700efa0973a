"""What rows are chosen for: target rows with their weights, from stores or among a pool's gradients; and leaks.

A leak is a row of the pool that says what a target row says, up to case and white space.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spice_select.amounts import parse_share, parse_target
from spice_select.choices import BadRow
from spice_select.config import RunConfig
from spice_select.errors import ConfigError
from spice_select.information import Target
from spice_select.pool.examples import Example
from spice_select.pool.types import Line
from spice_select.progress import Progress
from spice_select.row_tables import Chat
from spice_select.schedule.bad_rows import NAMED, bad_row
from spice_select.schedule.common_proxy import refuse_other_proxy
from spice_select.schedule.extraction import refuse_incomparable
from spice_select.schedule.identity import as_target
from spice_select.store.reading import GradientStore

_TEXTS = 4096  # rows whose texts are read at once


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
    rank = {"auto": None, "all": len(rows)}.get(str(config.directions), config.directions)
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
    like = f"{'--features gradients ' * (of.features == 'preconditioned')}--proxy-of {of.path}"
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


def leaks_in_store(store: GradientStore, kept: Sequence[int], targets: Sequence[GradientStore]) -> list[BadRow]:
    """Those of the rows `kept` of a store that equal a target row."""
    if not targets:
        return []
    wanted = texts_of(chat for target in targets for chat in target.chats(range(target.rows)))
    lines, found = store.listing.lines, list[BadRow]()
    for start in range(0, len(kept), _TEXTS):
        rows = kept[start : start + _TEXTS]
        found += _leaks(zip([lines[row] for row in rows], store.chats(rows), strict=True), wanted)
    return found


def leaks_among(rows: Sequence[Example], target: Sequence[Example]) -> list[BadRow]:
    """Those of `rows` that equal a target row."""
    return _leaks(zip(rows, rows, strict=True), texts_of(target))


def texts_of(chats: Iterable[Chat]) -> dict[str, str]:
    """What rows say, and the id of the first that says so."""
    found: dict[str, str] = {}
    for chat in chats:
        found.setdefault(plain_text(chat), chat.id)
    return found


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


def _leaks(rows: Iterable[tuple[Example | Line, Chat]], wanted: Mapping[str, str]) -> list[BadRow]:
    found = ((row, wanted.get(plain_text(chat))) for row, chat in rows)
    return [bad_row(row, f"equals target row {name}") for row, name in found if name is not None]


def plain_text(chat: Chat) -> str:
    """What a chat says, up to case and white space; rows with the same are equal."""
    messages = chat.conversation.messages
    said = (f"{one['role']} {one.get('content') or ''} {one.get('tool_calls') or ''}" for one in messages)
    return " ".join(" ".join(said).casefold().split())
