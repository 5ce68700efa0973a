"""What a selection over all rows may contain: rows, trained tokens, quotas by source; and which rows are excluded."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from spice_select.amounts import OTHERS, parse_quota
from spice_select.choices import BadRow
from spice_select.config import RunConfig
from spice_select.errors import ConfigError, ModelError
from spice_select.information import CostLimit, GroupLimit, Limit, RowLimit, SelectionInputError
from spice_select.option_values import NOUNS
from spice_select.pool.types import Line
from spice_select.progress import Progress
from spice_select.schedule.bad_rows import bad_rows


def limit_of(config: RunConfig, lines: Sequence[Line]) -> Limit:
    """The limit that budget and quota set on rows `lines`; raises `ConfigError` where it cannot be met."""
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

    Raises `ConfigError` if the file of ids cannot be read, names no row of the pool, or leaves none.
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
            f"the {len(unknown)} others.\nscores.parquet and rows.parquet list the ids."
        )
    if unknown:
        progress.note(
            f"{len(unknown):,} of {len(excluded):,} ids to exclude are not in the pool, for example '{unknown[0]}'"
        )
    kept = [place for place, line in enumerate(lines) if line.id not in excluded]
    if not kept:
        raise ConfigError(f"{config.exclude}: excludes every row of the pool; nothing is left to choose from.")
    return kept


def choosable(
    config: RunConfig, lines: Sequence[Line], squared_norms: Tensor, progress: Progress
) -> tuple[list[int], list[BadRow]]:
    """Places of the rows that may be picked, and the rows that are not excluded but cannot be picked.

    `squared_norms` [n] are marked (`gradients/finite.py`) where the loss or gradient is not finite.

    Raises:
        ConfigError: as `without_excluded`.
        ModelError: none is left.

    """
    kept = without_excluded(config, lines, progress)
    bad = bad_rows(lines_at(lines, kept), squared_norms.cpu()[kept], NOUNS[config.features])
    if not bad:
        return kept, bad
    if len(bad) == len(kept):
        raise ModelError(
            f"no row can be chosen: none is usable, for example {bad[0].location}: {bad[0].reason}.\n"
            "Make the store again with --dtype float32, or with another --model."
        )
    progress.note(
        f"{len(bad):,} of {len(kept):,} rows have no finite {NOUNS[config.features]} and are left out, "
        f"for example {bad[0].location}"
    )
    unusable = {row.row for row in bad}
    return [place for place in kept if lines[place].index not in unusable], bad


def lines_at(lines: Sequence[Line], places: Sequence[int]) -> Sequence[Line]:
    """The `lines` at `places`, which are in ascending order."""
    return lines if len(places) == len(lines) else [lines[place] for place in places]


def _by_source(config: RunConfig, lines: Sequence[Line], most: int) -> GroupLimit:
    sources = sorted({line.source for line in lines})
    sizes = Counter(line.source for line in lines)
    floors, ceilings = dict.fromkeys(sources, 0), dict.fromkeys(sources, most)
    quotas = dict.fromkeys(sources, config.quota[OTHERS]) if OTHERS in config.quota else {}
    for name, text in {**quotas, **config.quota}.items():
        if name == OTHERS:
            continue
        if name not in sizes:
            raise ConfigError(f"quota {name}={text}: no such source; the pool's sources are {', '.join(sources[:20])}.")
        (low, high), held = parse_quota(text, sizes[name] / len(lines)), sizes[name]
        floor = floors[name] = low.least(most) if low else 0
        ceiling = ceilings[name] = high.most(most) if high else most
        if floor > ceiling:
            raise ConfigError(f"quota {name}={text}: the minimum, {floor} rows, exceeds the maximum, {ceiling}.")
        if floor > held:
            raise ConfigError(f"quota {name}={text}: asks for {floor} rows, but the source has {held}; lower it.")
    least, room = sum(floors.values()), sum(min(ceilings[name], sizes[name]) for name in sources)
    if least > most:
        raise ConfigError(f"quota: the shares ask for at least {least} rows, the budget is {most}; lower them.")
    if room < most:
        raise ConfigError(
            f"quota: the shares leave room for {room} rows, the budget is {most}; raise them or lower it."
        )
    number = {name: place for place, name in enumerate(sources)}
    groups = torch.tensor([number[line.source] for line in lines])
    return GroupLimit(most, groups, list(floors.values()), list(ceilings.values()))
