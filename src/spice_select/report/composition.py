"""What was kept: by source, by length, by language of the trained text, and how diverse it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from spice_select.choices import PoolRecord
from spice_select.errors import ConfigError
from spice_select.information.diversity import log_det_distance, unit_rows, vendi_score
from spice_select.methods.facts import RowFacts, shuffled
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.types import Line
from spice_select.report.content import Composition, Diversity, PoolPart
from spice_select.report.finished_run import PoolGradients

LANGUAGE_ROWS = 20_000  # most rows whose language is detected
LEAST_LETTERS = 20  # fewer letters than this do not tell a language
TOO_SHORT = "too short to tell"
TENTHS = 10
KEPT_ROWS = 1000  # most kept rows of a pool whose diversity is measured; of more, a random sample
DRAWS = 20  # random subsets whose diversity is averaged, shared out over the pools
MEASURES: Mapping[str, Callable[[Tensor], float]] = {"Vendi score": vendi_score, "log-det distance": log_det_distance}
RISING = {"Vendi score"}  # measures that are higher for more diverse rows


Counts = npt.NDArray[np.int64]
"""For each row [n, 4]: 1, whether it was kept, its trained tokens, and these if it was kept."""


class Candidates(NamedTuple):
    """Rows of which some were kept; random subsets are drawn from the rest by `seed`."""

    take: Callable[[Tensor], Tensor]  # vectors [k, d] of rows by their numbers [k]
    usable: Tensor  # [n] whether a row has a direction; the others take no part
    kept: Sequence[int]
    seed: int
    sources: Sequence[str] = ()  # [n] for random subsets in which sources take turns; empty for none


def composition_of(lines: Rows[Line], records: Sequence[PoolRecord], texts: Mapping[int, str]) -> Composition:
    """Shares of the rows of `lines` that `records` picked; languages of those whose trained text is in `texts`."""
    tokens, kept = lines.trained_tokens.astype(np.int64), np.zeros(len(lines), dtype=np.int64)
    kept[[row for record in records for row in record.picked_rows]] = 1
    counts = np.stack([np.ones_like(kept), kept, tokens, kept * tokens], axis=1)
    languages = _parts(counts[np.array([*texts], dtype=np.int64)], [language(text) for text in texts.values()])
    return Composition(
        sources=_parts(counts, [line.source for line in lines]),
        lengths=_by_length(counts),
        languages=sorted(languages, key=lambda part: (part.name == TOO_SHORT, -part.rows, part.name)),
        language_rows=len(texts),
        length_correlation=_length_correlation(lines, records),
        median=float(np.median(tokens)),
        kept_median=float(np.median(tokens[kept > 0])) if kept.any() else 0.0,
    )


def _parts(counts: Counts, keys: Sequence[str | int]) -> list[PoolPart]:
    """Sums of `counts` over the rows with the same key [n], by key."""
    names, group = np.unique(np.array(keys, dtype=object), return_inverse=True)
    sums = np.zeros((len(names), counts.shape[1]), dtype=np.int64)
    np.add.at(sums, group, counts)
    return [PoolPart(str(name), *values) for name, values in zip(names.tolist(), sums.tolist(), strict=True)]


def _by_length(counts: Counts) -> list[PoolPart]:
    """Tenths by trained tokens, each named by its range; rows of equal length stay together."""
    lengths = counts[:, 2]
    edges = np.unique(np.quantile(lengths, np.arange(1, TENTHS) / TENTHS, method="lower"))
    tenth = np.searchsorted(edges, lengths)
    ends = [(lengths[tenth == i].min(), lengths[tenth == i].max()) for i in np.unique(tenth)]
    names = [f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high in ends]
    return [replace(part, name=name) for part, name in zip(_parts(counts, tenth.tolist()), names, strict=True)]


def language(text: str) -> str:
    """ISO 639-1 code of the most likely language, or `TOO_SHORT`."""
    if sum(character.isalpha() for character in text) < LEAST_LETTERS:
        return TOO_SHORT
    import py3langid

    return cast(str, py3langid.classify(text)[0])  # pyright: ignore[reportUnknownMemberType]


def diversity_of(
    pools: Sequence[tuple[PoolGradients, Sequence[int]]], seed: int, noun: str, sources: Sequence[str] = ()
) -> list[Diversity]:
    """On cosines of what `noun` names, in each candidate pool separately; `pools` come with the places of kept rows.

    With `sources` of all rows, of several kinds, also of random rows whose sources take turns.
    """
    turns = len(set(sources)) > 1
    candidates = [
        Candidates(
            pool.uncut.take, torch.tensor(pool.measures.norm) > 0, kept, seed + pool.record.pool,
            [sources[row] for row in pool.record.rows] if turns else (),
        )
        for pool, kept in pools
    ]  # fmt: skip
    return _diversity(candidates, f"{noun}s")


def embedding_diversity(path: Path, rows: int, picked: Sequence[int], seed: int) -> list[Diversity]:
    """On vectors that the user supplies, among all rows at once.

    Raises `ConfigError` unless `path` is a .npy file with a finite vector for each row, [rows, d].
    """
    vectors = _read_vectors(path, rows)

    def take(places: Tensor) -> Tensor:
        return torch.from_numpy(vectors[places.numpy()].astype(np.float64))

    return _diversity([Candidates(take, torch.from_numpy((vectors != 0).any(axis=1)), picked, seed)], path.name)


def _diversity(groups: Sequence[Candidates], space: str) -> list[Diversity]:
    """Means over groups, weighted by their kept rows; empty where no row with a direction is kept."""
    values: list[list[list[float]]] = []
    weights: list[int] = []
    for take, usable, kept, seed, sources in groups:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.tensor(sorted(kept), dtype=torch.int64)
        chosen = _sample(rows[usable[rows]], KEPT_ROWS, generator)
        if len(chosen):
            draws, others = range(-(-DRAWS // len(groups))), usable.nonzero()[:, 0]
            subsets = [[_sample(others, len(chosen), generator) for _ in draws]]
            if sources:
                subsets.append([_in_turn(others, sources, len(chosen), seed + draw) for draw in draws])
            means = [np.mean([_measured(take(rows)) for rows in drawn], axis=0).tolist() for drawn in subsets]
            values.append([_measured(take(chosen)), *means])
            weights.append(len(kept))
    if not weights:
        return []
    pairs = np.average(values, axis=0, weights=weights).T.tolist()
    return [
        Diversity(name, space, *found[:2], balanced=found[2] if len(found) > 2 else None, rising=name in RISING)
        for name, found in zip(MEASURES, pairs, strict=True)
    ]


def _in_turn(rows: Tensor, sources: Sequence[str], most: int, seed: int) -> Tensor:
    """Random ones of `rows` whose sources take turns."""
    own = [sources[row] for row in cast("list[int]", rows.tolist())]
    order = shuffled(RowFacts([0] * len(own), seed, sources=own))
    return rows[torch.tensor(order[:most])].sort().values


def _sample(rows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    return rows if len(rows) <= most else rows[torch.randperm(len(rows), generator=generator)[:most]].sort().values


def _measured(vectors: Tensor) -> list[float]:
    unit, _ = unit_rows(vectors)
    return [measure(unit) for measure in MEASURES.values()]


def _read_vectors(path: Path, rows: int) -> npt.NDArray[Any]:
    try:
        vectors: npt.NDArray[Any] = open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path}: cannot be read as a .npy file ({reason}); write it with numpy.save.") from None
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or len(vectors) != rows:
        raise ConfigError(
            f"{path}: holds {vectors.dtype} of shape {vectors.shape}; real numbers of shape ({rows}, d) are needed, "
            "one vector for each line of scores.parquet."
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ConfigError(f"{path}: vector {first} is not finite; correct it and write the file again.")
    return vectors


def _length_correlation(lines: Rows[Line], records: Sequence[PoolRecord]) -> float | None:
    """Pearson's, of log norm with log trained tokens; gradients of zero have no log and are left out."""
    pairs = [
        (lines.trained_tokens[row], norm)
        for record in records
        if record.measures is not None
        for row, norm in zip(record.rows, record.measures.norm, strict=True)
        if norm > 0
    ]
    columns = np.log(pairs).reshape(-1, 2).T
    if len(pairs) < 3 or bool((np.ptp(columns, axis=1) == 0).any()):
        return None
    return float(np.corrcoef(columns)[0, 1])
