"""What was kept: by source, by length, by language of the trained text, and how diverse it is."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spice_select.choices import PoolRecord
from spice_select.errors import ConfigError
from spice_select.information.diversity import log_det_distance, unit_rows, vendi_score
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

Counts = npt.NDArray[np.int64]
"""For each row [n, 4]: 1, whether it was kept, its trained tokens, and these if it was kept."""

Take = Callable[[Tensor], Tensor]
"""Vectors [k, d] of rows by their numbers [k]."""


def composition_of(lines: Rows[Line], records: Sequence[PoolRecord], texts: Mapping[int, str]) -> Composition:
    """Shares of the rows of `lines` that `records` picked; languages of the rows whose trained text is in `texts`."""
    tokens, kept = lines.trained_tokens.astype(np.int64), np.zeros(len(lines), dtype=np.int64)
    kept[[row for record in records for row in record.picked_rows]] = 1
    counts = np.stack([np.ones_like(kept), kept, tokens, kept * tokens], axis=1)
    some = np.array(sorted(texts), dtype=np.int64)
    languages = _parts(counts[some], [language(texts[row]) for row in some.tolist()])
    return Composition(
        sources=_parts(counts, [line.source for line in lines]),
        lengths=_by_length(counts),
        languages=sorted(languages, key=lambda part: (part.name == TOO_SHORT, -part.rows, part.name)),
        language_rows=len(texts),
        length_correlation=_length_correlation(lines, records),
    )


def _parts(counts: Counts, keys: Sequence[str | int]) -> list[PoolPart]:
    """Sums of `counts` over the rows with the same key [n], by key."""
    names, group = np.unique(np.array(keys, dtype=object), return_inverse=True)
    sums = np.zeros((len(names), counts.shape[1]), dtype=np.int64)
    np.add.at(sums, group, counts)
    values: list[list[int]] = sums.tolist()
    return [PoolPart(str(name), *numbers) for name, numbers in zip(names.tolist(), values, strict=True)]


def _by_length(counts: Counts) -> list[PoolPart]:
    """Tenths by trained tokens, each named by its range; rows of equal length stay together."""
    lengths = counts[:, 2]
    edges = np.unique(np.quantile(lengths, np.arange(1, TENTHS) / TENTHS, method="lower"))
    tenth = np.searchsorted(edges, lengths, side="left")
    named: list[PoolPart] = []
    for part in _parts(counts, tenth.tolist()):
        inside = lengths[tenth == int(part.name)]
        low, high = f"{inside.min():,}", f"{inside.max():,}"
        named.append(replace(part, name=low if low == high else f"{low} to {high}"))
    return named


def language(text: str) -> str:
    """ISO 639-1 code of the most likely language, or `TOO_SHORT`."""
    if sum(character.isalpha() for character in text) < LEAST_LETTERS:
        return TOO_SHORT
    import py3langid

    return cast(str, py3langid.classify(text)[0])  # pyright: ignore[reportUnknownMemberType]


def diversity_of(pools: Sequence[tuple[PoolGradients, Sequence[int]]], seed: int) -> list[Diversity]:
    """On unscaled gradients, in each candidate pool separately, averaged with the number of kept rows as weight.

    `pools` come with the places of their kept rows. Empty where no row with a direction is kept.
    """
    draws = -(-DRAWS // max(1, len(pools)))
    found: list[tuple[int, Tensor]] = []
    for pool, kept in pools:
        assert pool.record.measures is not None
        usable = torch.tensor(pool.record.measures.norm) > 0
        generator = torch.Generator().manual_seed(seed + pool.record.pool)
        values = _diversity(pool.unscaled.take, usable, kept, draws, generator)
        found += [] if values is None else [(len(kept), values)]
    return _diversities(found, "gradients")


def embedding_diversity(path: Path, rows: int, picked: Sequence[int], seed: int) -> list[Diversity]:
    """On vectors that the user supplies, among all rows at once; `path` is a .npy file [rows, d].

    Raises:
        ConfigError: the file cannot be read, or does not hold one finite vector for each row.

    """
    vectors = _read_vectors(path, rows)
    usable, generator = torch.from_numpy((vectors != 0).any(axis=1)), torch.Generator().manual_seed(seed)

    def take(places: Tensor) -> Tensor:
        return torch.from_numpy(vectors[places.numpy()].astype(np.float64))

    values = _diversity(take, usable, picked, DRAWS, generator)
    return _diversities([] if values is None else [(len(picked), values)], path.name)


def _diversity(
    take: Take, usable: Tensor, kept: Sequence[int], draws: int, generator: torch.Generator
) -> Tensor | None:
    """Each measure of the kept rows and its mean over random subsets, [measures, 2]; None where no row is kept.

    Rows that are not `usable` [n] have no direction and take no part.
    """
    candidates = usable.nonzero()[:, 0]
    chosen = torch.tensor(sorted(kept), dtype=torch.int64)
    chosen = _sample(chosen[usable[chosen]], KEPT_ROWS, generator)
    if len(chosen) == 0:
        return None
    values = _measured(take(chosen))
    by_chance = [_measured(take(_sample(candidates, len(chosen), generator))) for _ in range(draws)]
    return torch.stack([values, torch.stack(by_chance).mean(dim=0)], dim=1)


def _sample(rows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    return rows if len(rows) <= most else rows[torch.randperm(len(rows), generator=generator)[:most]].sort().values


def _measured(vectors: Tensor) -> Tensor:
    unit, _ = unit_rows(vectors)
    return torch.tensor([measure(unit) for measure in MEASURES.values()], dtype=torch.float64)


def _diversities(found: Sequence[tuple[int, Tensor]], space: str) -> list[Diversity]:
    """Means of `found`, each with its weight."""
    if not found:
        return []
    values = torch.stack([weight * pair for weight, pair in found]).sum(dim=0) / sum(weight for weight, _ in found)
    pairs = cast("list[tuple[float, float]]", values.tolist())
    return [Diversity(name, space, *pair) for name, pair in zip(MEASURES, pairs, strict=True)]


def _read_vectors(path: Path, rows: int) -> npt.NDArray[Any]:
    try:
        loaded: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path}: cannot be read as a .npy file ({reason}); write it with numpy.save.") from None
    if not isinstance(loaded, np.ndarray):
        raise ConfigError(f"{path}: holds several arrays; write a single array of vectors with numpy.save.")
    vectors = cast(npt.NDArray[Any], loaded)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise ConfigError(
            f"{path}: holds {vectors.dtype} of shape {vectors.shape}; real numbers of shape [rows, d] are needed."
        )
    if len(vectors) != rows:
        raise ConfigError(
            f"{path}: holds {len(vectors):,} vectors for a run of {rows:,} rows; "
            "write one vector for each line of scores.parquet."
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ConfigError(f"{path}: vector {first} is not finite; correct it and write the file again.")
    return vectors


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
