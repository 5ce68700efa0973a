"""Who was chosen: by source, by length and by language of the trained text."""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from spice_select.choices import PoolRecord
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.types import Line
from spice_select.report.content import Composition, Share

LANGUAGE_ROWS = 20_000
"""Most rows whose language is looked at."""

LEAST_LETTERS = 20
"""Fewer letters than this do not tell a language."""

TOO_SHORT = "too short to tell"
TENTHS = 10

Key = TypeVar("Key")
Texts = Mapping[int, str]
"""Trained text of some rows, by number."""


def composition_of(lines: Rows[Line], records: Sequence[PoolRecord], texts: Texts) -> Composition:
    """Shares of the rows of `lines` that `records` picked; languages of those rows that have `texts`."""
    picked = {row for record in records for row in record.picked_rows}
    by_language = _grouped(sorted(texts), lambda row: language(texts[row]))
    languages = sorted(by_language.items(), key=lambda item: (item[0] == TOO_SHORT, -len(item[1]), item[0]))
    return Composition(
        sources=[_share(name, rows, lines, picked) for name, rows in _by_source(lines).items()],
        lengths=[_share(name, rows, lines, picked) for name, rows in _by_length(lines).items()],
        languages=[_share(name, rows, lines, picked) for name, rows in languages],
        language_rows=len(texts),
        length_correlation=_length_correlation(lines, records),
    )


def language(text: str) -> str:
    """ISO 639-1 code of the most likely language, or `TOO_SHORT`."""
    if sum(character.isalpha() for character in text) < LEAST_LETTERS:
        return TOO_SHORT
    import py3langid

    return cast(str, py3langid.classify(text)[0])  # pyright: ignore[reportUnknownMemberType]


def _by_source(lines: Rows[Line]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for row, line in enumerate(lines):
        groups.setdefault(line.source, []).append(row)
    return dict(sorted(groups.items()))


def _by_length(lines: Rows[Line]) -> dict[str, list[int]]:
    """Tenths by trained tokens; rows of one length are never parted."""
    lengths = lines.trained_tokens
    edges = np.unique(np.quantile(lengths, np.arange(1, TENTHS) / TENTHS, method="lower"))
    tenth = np.searchsorted(edges, lengths, side="left")
    groups = _grouped(range(len(lines)), lambda row: int(tenth[row]))
    return {_range(lengths[rows]): rows for _, rows in sorted(groups.items())}


def _range(lengths: npt.NDArray[Any]) -> str:
    low, high = int(lengths.min()), int(lengths.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _grouped(rows: Sequence[int], key: Callable[[int], Key]) -> dict[Key, list[int]]:
    groups: dict[Key, list[int]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _share(name: str, rows: Sequence[int], lines: Rows[Line], picked: Set[int]) -> Share:
    kept = [row for row in rows if row in picked]
    tokens, kept_tokens = (int(lines.trained_tokens[part].sum()) for part in (rows, kept))
    return Share(name, len(rows), len(kept), tokens, kept_tokens)


def _length_correlation(lines: Rows[Line], records: Sequence[PoolRecord]) -> float | None:
    """Pearson's, of log norm with log trained tokens; gradients of zero have no log and are left out."""
    pairs = [
        (math.log(lines.trained_tokens[row]), math.log(norm))
        for record in records
        if record.measures is not None
        for row, norm in zip(record.rows, record.measures.norm, strict=True)
        if norm > 0
    ]
    columns = np.array(pairs).reshape(-1, 2).T
    if len(pairs) < 3 or bool((np.ptp(columns, axis=1) == 0).any()):
        return None
    return float(np.corrcoef(columns)[0, 1])
