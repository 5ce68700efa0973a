"""What a selection over all rows may hold: rows, trained tokens, quotas by source; and which rows are left out."""

from collections.abc import Sequence
from pathlib import Path

import torch

from spice_select.amounts import parse_quota
from spice_select.config import RunConfig
from spice_select.errors import ConfigError
from spice_select.information import CostLimit, GroupLimit, Limit, RowLimit, SelectionInputError
from spice_select.pool.records import Line
from spice_select.progress import Progress


def limit_of(config: RunConfig, lines: Sequence[Line]) -> Limit:
    """The limit that budget and quota set on rows `lines`.

    Raises:
        ConfigError: it cannot be met; the message says which part.

    """
    tokens = [line.trained_tokens for line in lines]
    most = config.budget_rows(len(lines), sum(tokens))
    try:
        if config.budget_tokens is not None:
            return CostLimit(torch.tensor(tokens, dtype=torch.float64), float(config.budget_tokens))
        return _by_source(config, lines, most) if config.quota else RowLimit(most)
    except SelectionInputError as error:
        raise ConfigError(f"budget {config.budget}: {error}") from None


def without_excluded(config: RunConfig, lines: Sequence[Line], progress: Progress) -> list[int]:
    """Places of the rows that may be picked.

    Raises:
        ConfigError: the file of ids cannot be read, names no row of the pool, or leaves none.

    """
    if config.exclude is None:
        return list(range(len(lines)))
    try:
        text = Path(config.exclude).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{config.exclude}: cannot be read ({error.strerror}); check --exclude.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{config.exclude}: is not UTF-8 text; --exclude takes ids, one a line.") from None
    excluded = {line.strip(): number for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    known = {line.id for line in lines if line.id in excluded}
    unknown = sorted(excluded.keys() - known, key=lambda name: excluded[name])
    if len(unknown) == len(excluded) > 0:
        raise ConfigError(
            f"{config.exclude}, line {excluded[unknown[0]]}: the pool has no row with id '{unknown[0]}', nor any of "
            f"the {len(unknown)} others.\nscores.parquet and rows.parquet list the ids there are."
        )
    if unknown:
        progress.note(f"{len(unknown):,} of {len(excluded):,} ids to exclude are not in the pool, as '{unknown[0]}'")
    kept = [place for place, line in enumerate(lines) if line.id not in excluded]
    if not kept:
        raise ConfigError(f"{config.exclude}: excludes every row of the pool; nothing is left to choose from.")
    return kept


def only(lines: Sequence[Line], places: Sequence[int]) -> Sequence[Line]:
    """Those of `lines` at `places`, which rise."""
    return lines if len(places) == len(lines) else [lines[place] for place in places]


def _by_source(config: RunConfig, lines: Sequence[Line], most: int) -> GroupLimit:
    sources = sorted({line.source for line in lines})
    for name in config.quota:
        if name not in sources:
            raise ConfigError(
                f"quota {name}={config.quota[name]}: no such source; there are {', '.join(sources[:20])}."
            )
    number = {name: place for place, name in enumerate(sources)}
    groups = torch.tensor([number[line.source] for line in lines])
    floors, ceilings = [0] * len(sources), [most] * len(sources)
    for name, text in config.quota.items():
        low, high = parse_quota(text)
        held = sum(line.source == name for line in lines)
        floors[number[name]] = low.least(most) if low else 0
        ceilings[number[name]] = high.most(most) if high else most
        _check(name, text, floors[number[name]], ceilings[number[name]], held)
    if sum(floors) > most:
        raise ConfigError(f"quota: the shares ask for at least {sum(floors)} rows, the budget is {most}; lower them.")
    room = sum(min(c, int((groups == g).sum())) for g, c in enumerate(ceilings))
    if room < most:
        raise ConfigError(
            f"quota: the shares leave room for {room} rows, the budget is {most}; raise them or lower it."
        )
    return GroupLimit(most, groups, floors, ceilings)


def _check(name: str, text: str, floor: int, ceiling: int, held: int) -> None:
    if floor > ceiling:
        raise ConfigError(f"quota {name}={text}: the least, {floor} rows, is more than the most, {ceiling}.")
    if floor > held:
        raise ConfigError(f"quota {name}={text}: asks for {floor} rows, but the source has {held}; lower it.")
