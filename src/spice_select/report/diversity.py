"""How different the kept rows are from each other, beside random rows of the same number."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spice_select.errors import ConfigError
from spice_select.information.diversity import (
    NEIGHBOURS,
    directions_clustered,
    local_density,
    log_det_distance,
    novel_sum,
    unit_rows,
    vendi_score,
)
from spice_select.report.content import Diversity
from spice_select.report.evidence import PoolEvidence

REFERENCE_ROWS = 4000
"""Most rows of a pool that the kept ones are compared with."""

KEPT_ROWS = 1000
"""Most kept rows of a pool that are looked at."""

DRAWS = 20
"""Random subsets that are averaged, shared out over the pools."""

MOST_CLUSTERS = 100

DEFINITIONS = {
    "Vendi score": "effective number of different rows: exp of the entropy of the eigenvalues of the cosine matrix "
    "divided by the number of rows; higher is more diverse",
    "log-det distance": "distance from mutually orthogonal rows: minus the log-determinant of the cosine matrix (plus "
    "0.01 on its diagonal, normalised), per row, in nats; lower is more diverse",
    "NovelSum": f"mean cosine distance to the other rows, near ones weighted 1/rank and each by 1/sqrt(mean distance "
    f"to its {NEIGHBOURS} nearest rows of the pool); higher is more diverse",
    "cluster coverage": f"share of the pool's clusters (spherical k-means, as many as rows are kept, at most "
    f"{MOST_CLUSTERS}) of which a row is kept; higher is more diverse",
}


def diversity_of(pools: Sequence[tuple[PoolEvidence, Sequence[int]]], seed: int) -> list[Diversity]:
    """On unscaled gradients, each candidate pool for itself, averaged by the number of kept rows.

    Args:
        pools: each with the places of its kept rows.
        seed: of the draws.

    Returns:
        One for each measure; nothing where no row is kept.

    """
    tally = _Tally(-(-DRAWS // max(1, len(pools))))
    for pool, places in pools:
        if places:
            generator = torch.Generator().manual_seed(seed + pool.record.pool)
            sample = _Sample.of(len(pool.record.rows), places, generator)
            tally.add(pool.plain.take(sample.rows), sample, len(places), generator)
    return tally.result("gradients")


def embedding_diversity(path: Path, rows: int, picked: Sequence[int], seed: int) -> list[Diversity]:
    """On vectors of one's own, one a usable row, among all rows at once.

    Args:
        path: a .npy file [rows, d] of real numbers, in the order of scores.parquet.
        rows: that the run used.
        picked: numbers of those that were chosen.
        seed: of the draws.

    Raises:
        ConfigError: the file cannot be read, or does not hold one finite vector a row.

    """
    vectors = _read_vectors(path, rows)
    generator = torch.Generator().manual_seed(seed)
    sample = _Sample.of(rows, picked, generator)
    tally = _Tally(DRAWS)
    tally.add(torch.from_numpy(vectors[sample.rows.numpy()].astype(np.float64)), sample, len(picked), generator)
    return tally.result(path.name)


def _read_vectors(path: Path, rows: int) -> npt.NDArray[Any]:
    try:
        loaded: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path}: cannot be read as a .npy file ({reason}); write it with numpy.save.") from None
    if not isinstance(loaded, np.ndarray):
        raise ConfigError(f"{path}: holds several arrays; write the one of the vectors with numpy.save.")
    vectors = cast(npt.NDArray[Any], loaded)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise ConfigError(f"{path}: holds {vectors.dtype} numbers of shape {vectors.shape}; [rows, d] is needed.")
    if len(vectors) != rows:
        raise ConfigError(
            f"{path}: holds {len(vectors):,} vectors, the run {rows:,} rows; give one a line of its scores."
        )
    if not np.isfinite(vectors).all():
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ConfigError(f"{path}: vector {bad} is not finite; mend or drop that row.")
    return vectors


@dataclass(frozen=True, slots=True)
class _Sample:
    """Numbers of some rows of a pool [n], which of them are kept [k], and which may be drawn instead [l].

    Where there are too many rows, kept ones are more frequent among `rows` than in the pool; in `lot` they are not.
    """

    rows: Tensor
    kept: Tensor
    lot: Tensor

    @classmethod
    def of(cls, rows: int, picks: Sequence[int], generator: torch.Generator) -> "_Sample":
        """Draw from `rows` rows of which those with the numbers `picks` are kept."""
        chosen = torch.tensor(sorted(picks))
        left = torch.ones(rows, dtype=torch.bool)
        left[chosen] = False
        unkept = left.nonzero()[:, 0]
        others, kept = _drawn(unkept, REFERENCE_ROWS, generator), _drawn(chosen, KEPT_ROWS, generator)
        # In the lot both sides are thinned alike.
        share = min(len(kept) / len(chosen), len(others) / len(unkept) if len(unkept) else 1.0)
        lot = torch.cat([kept[: max(1, round(share * len(chosen)))], others[: round(share * len(unkept))]])
        members = torch.cat([kept, others]).sort().values
        return cls(members, _places(members, kept), _places(members, lot))


def _drawn(rows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)[:most]]


def _places(members: Tensor, some: Tensor) -> Tensor:
    return torch.isin(members, some).nonzero()[:, 0]


@dataclass(slots=True)
class _Tally:
    """Each measure of the kept rows and of random ones, summed over pools by their picks."""

    draws: int
    _sums: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    _weight: int = 0

    def add(self, vectors: Tensor, sample: _Sample, weight: int, generator: torch.Generator) -> None:
        """Add a pool's `vectors` [n, d] of `sample.rows`; those without a direction take no part."""
        unit, places = unit_rows(vectors)
        chosen, lot = _places(places, sample.kept), _places(places, sample.lot)
        count = min(len(chosen), len(lot))
        if count == 0:
            return
        chosen = _drawn(chosen, count, generator) if count < len(chosen) else chosen
        space = _Space(unit, local_density(unit, unit), directions_clustered(unit, _clusters(count, unit), generator))
        by_chance = [_drawn(lot, count, generator) for _ in range(self.draws)]
        for name, measure in _MEASURES.items():
            random = sum(measure(space, rows) for rows in by_chance) / self.draws
            sums = self._sums.setdefault(name, [0.0, 0.0])
            sums[0] += weight * measure(space, chosen)
            sums[1] += weight * random
        self._weight += weight

    def result(self, space: str) -> list[Diversity]:
        """Means over what was added; `space` says where the vectors are from."""
        return [
            Diversity(name, DEFINITIONS[name], space, kept / self._weight, random / self._weight)
            for name, (kept, random) in self._sums.items()
        ]


@dataclass(frozen=True, slots=True)
class _Space:
    """Directions [n, d] of a pool, how dense each place is [n], and its cluster [n]."""

    unit: Tensor
    density: Tensor
    cluster: Tensor


_MEASURES: Mapping[str, Callable[[_Space, Tensor], float]] = {
    "Vendi score": lambda space, rows: vendi_score(space.unit[rows]),
    "log-det distance": lambda space, rows: log_det_distance(space.unit[rows]),
    "NovelSum": lambda space, rows: novel_sum(space.unit[rows], space.density[rows]),
    "cluster coverage": lambda space, rows: _different(space.cluster[rows]) / _different(space.cluster),
}


def _different(numbers: Tensor) -> int:
    return len(set(cast("list[int]", numbers.tolist())))


def _clusters(kept: int, unit: Tensor) -> int:
    return min(max(kept, 2), MOST_CLUSTERS, len(unit))
