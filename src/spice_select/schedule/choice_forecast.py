"""What one choice among all rows of a store would take, from the first of them.

Told is the survey: what is read and multiplied before the first pick, whatever the rows are. The picks come on top;
their time depends on how many rows gain nearly the same, which nobody knows before. Times are of rows that the system
has in its cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from spice_select.config import RunConfig
from spice_select.costs.forecast import Forecast
from spice_select.costs.memory import PeakMemory, obtainable_bytes
from spice_select.costs.speed import TIMED, Batch, measure_speed
from spice_select.information import FeatureRows, PartOfFeatures, principal_rank
from spice_select.progress import Progress
from spice_select.schedule.budget import choosable, limit_of, only
from spice_select.schedule.forecast import rows_on_disk, text_bytes
from spice_select.schedule.whole_pool import same_proxy, scaled_rows
from spice_select.store.layout import SHARD_ROWS
from spice_select.store.reading import GradientStore

MOST_BYTES = 32 << 20
"""Size in float64 of the rows that are looked at, those of two shards at most."""

MOST_EIGENVALUES = 1024
"""Size of the matrix whose eigenvalues are timed; for a larger one their time grows as its cube."""

REMEDY = "make a store of a smaller --dim"


@dataclass(frozen=True, slots=True)
class _Size:
    """A choice of `picks` of n = `rows` rows of d = `dim` numbers, in `rank` directions, beside `given` rows.

    `rank` is None where information is measured in all d numbers.
    """

    rows: int
    dim: int
    picks: int
    rank: int | None
    given: int

    @property
    def by_rows(self) -> bool:
        """Whether the survey makes the rows' Gram matrix [n, n] and not their second moment [d, d]."""
        return self.rows < self.dim

    @property
    def least(self) -> int:
        """Size of that matrix."""
        return min(self.rows, self.dim)


@dataclass(frozen=True, slots=True)
class _Costs:
    """Seconds of the parts of a survey."""

    matrix: float  # the survey's, of all rows
    eigenvalues: float  # of that matrix
    reading: float  # a row, with its projection


def forecast_choice(
    store: GradientStore, config: RunConfig, given: GradientStore | None, progress: Progress
) -> Forecast:
    """Time of the survey and memory of `choose_all` in one process, and the disk that its results take.

    Memory is without the store's own files, of which the system keeps as much as there is room for.

    Raises:
        ConfigError: as `choose_all`.

    """
    held = PeakMemory(store.device).bytes()
    lines = store.listing.lines
    kept, _ = choosable(config, lines, store.squared_norms(), progress)
    candidates = only(lines, kept)
    picks = limit_of(config, candidates).most
    rank = principal_rank(picks) if config.rank == "auto" else config.rank
    directions = None if rank == "all" or rank >= min(len(kept), store.dim) else rank
    size = _Size(len(kept), store.dim, picks, directions, 0 if given is None else same_proxy(given, store).rows)
    own = scaled_rows(store, lines, config)
    features = own if len(kept) == store.rows else PartOfFeatures(own, torch.tensor(kept, device=store.device))
    progress.note("timing a pass over the first rows")
    seconds = {"survey": _survey_seconds(size, _measure(features, size))}
    tokens = sum(line.trained_tokens for line in candidates)
    texts = text_bytes(store.chats(_spread(store.rows)), len(kept))
    return Forecast(
        rows=len(kept),
        tokens=sum(line.tokens for line in candidates),
        trained_tokens=tokens,
        seconds=seconds,
        memory=held + _bytes(size),
        obtainable=obtainable_bytes(store.device),
        disk=rows_on_disk(len(kept), tokens, texts, config),
        remedy=REMEDY,
    )


def _measure(features: FeatureRows, size: _Size) -> _Costs:
    device = features.device
    count = max(1, min(size.rows, 2 * SHARD_ROWS, MOST_BYTES // (8 * size.dim)))
    block = features.block(0, count)
    directions = block[: size.rank or 1].T
    small = torch.rand(2 * [min(size.least, MOST_EIGENVALUES)], dtype=torch.float64, device=device)
    symmetric = small + small.T

    def eigenvalues() -> Tensor:
        return cast(tuple[Tensor, Tensor], torch.linalg.eigh(symmetric))[0]

    return _Costs(
        matrix=_matrix_seconds(block, size),
        eigenvalues=_time(eigenvalues, device) * (size.least / len(small)) ** 3,
        reading=_time(lambda: features.block(0, count) @ directions, device) / count,
    )


def _matrix_seconds(block: Tensor, size: _Size) -> float:
    """Time of the survey's matrix, of all rows, from that of the rows `block` [b, d]."""
    if size.by_rows:
        return _time(lambda: block @ block.T, block.device) * (size.rows / len(block)) ** 2
    moment = block.new_zeros(size.dim, size.dim)
    return _time(lambda: moment.addmm_(block.T, block), block.device) * size.rows / len(block)


def _time(work: Callable[[], object], device: torch.device) -> float:
    """Mean seconds of `work`, which is done once before."""

    def run(_: Batch) -> None:
        work()

    return measure_speed(run, TIMED * [()], TIMED * [1.0], device).per_cost


def _survey_seconds(size: _Size, costs: _Costs) -> float:
    """The survey, with the projection where there is one."""
    survey = costs.matrix + costs.eigenvalues + costs.reading * size.rows
    if size.rank is None:
        return survey
    passes = 2 if size.by_rows else 1  # from the Gram matrix, directions take a pass of their own
    return survey + costs.reading * (passes * size.rows + size.given)


def _bytes(size: _Size) -> int:
    """What a choice holds in float64: the survey's matrices, then what the picks need, and some numbers a row."""
    matrix = size.least**2
    if size.rank is not None:
        picking = size.rows * size.rank
    else:
        met = min(size.picks, 2 * size.dim) * size.dim
        picking = met + (0 if size.by_rows and 2 * size.picks < size.dim else 4 * size.dim**2)
    numbers = max(4 * matrix, 2 * matrix + picking)  # eigenvectors beside the matrix, and twice as much to find them
    return 8 * (numbers + 12 * size.rows) + 3 * MOST_BYTES


def _spread(rows: int) -> Sequence[int]:
    """A few neighbours in eight places of the pool: texts lie in groups, which are read whole."""
    starts = range(0, rows, max(1, -(-rows // 8)))
    return [row for start in starts for row in range(start, min(start + 25, rows))]
