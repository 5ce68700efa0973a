"""A finished run as a report needs it: its rows, records, texts, and the gradients that it chose by.

evidence = open_run("chosen")
for pool in evidence.pools: pool.record, pool.seen, pool.plain
"""

# pyarrow ships no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import torch
from pydantic import ValidationError
from torch import Tensor

from spice_select.choices import PoolRecord
from spice_select.config import GREEDY, WITHOUT_GRADIENTS, RunConfig
from spice_select.errors import ConfigError, OutputError
from spice_select.files.directory import CHECKPOINT, FORMAT, MANIFEST, SCORES
from spice_select.information import (
    FeatureRows,
    Limit,
    PartOfFeatures,
    RowLimit,
    SelectionInputError,
    TensorFeatures,
    gram_features,
)
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.types import Line
from spice_select.progress import NoProgress
from spice_select.schedule.budget import limit_of, only
from spice_select.schedule.checkpoint import STORE, TEXTS, Checkpoint, gram_name, record_name
from spice_select.schedule.pick_in_pool import gram_as_seen
from spice_select.schedule.whole_pool import as_seen
from spice_select.store.layout import MANIFEST as STORE_MANIFEST
from spice_select.store.layout import file_digest
from spice_select.store.reading import GradientStore
from spice_select.store.tables import StoredChat, read_lines, read_texts


@dataclass(frozen=True, slots=True, eq=False)
class PoolEvidence:
    """One candidate pool of m rows, and their gradients.

    Attributes:
        record: what was chosen, and the quantities of every row.
        seen: [m, d] scaled and in their main directions, as the choice saw them.
        squares: [m] |g|^2 of `seen`.
        plain: [m, d'] unscaled, in all directions that are known.
        given: rows that were in the training set already, as seen.
        alpha: absolute.
        limit: what may be picked.

    """

    record: PoolRecord
    seen: FeatureRows
    squares: Tensor
    plain: FeatureRows
    given: FeatureRows | None
    alpha: float
    limit: Limit


@dataclass(frozen=True, eq=False)
class Evidence:
    """A finished run.

    Attributes:
        directory: of the run.
        config: its options.
        lines: a line for every usable row.
        records: one a candidate pool.
        store: the gradient store it chose from, if any.
        missing: why gradients or texts are not there, each a sentence.

    """

    directory: Path
    config: RunConfig
    lines: Rows[Line]
    records: list[PoolRecord]
    store: GradientStore | None
    missing: list[str]

    @cached_property
    def pools(self) -> list[PoolEvidence]:
        """Candidate pools in which something was picked and whose gradients are there."""
        if self.store is not None:
            return [self._of_store(self.store)]
        checkpoint, found = Checkpoint(self.directory / CHECKPOINT), list[PoolEvidence]()
        for record in self.records:
            gram = checkpoint.gram(record.pool) if record.picks and record.measures is not None else None
            if gram is not None:
                lengths: list[int] = self.lines.trained_tokens[record.rows].tolist()
                try:
                    found.append(_of_gram(gram, record, lengths, self.config))
                except SelectionInputError as error:
                    path = checkpoint.directory / gram_name(record.pool)
                    raise OutputError(f"{path}: is damaged ({error}); delete it to go on without it.") from None
        return found

    def _of_store(self, store: GradientStore) -> PoolEvidence:
        record, config = self.records[0], self.config
        assert record.measures is not None
        limit = limit_of(config, only(self.lines, record.rows))
        given = None if config.given is None else GradientStore.open(config.given, store.device)
        seen = as_seen(store, self.lines, record.rows, limit.most, config, given, NoProgress())
        plain = PartOfFeatures(store, torch.tensor(record.rows, device=store.device))
        alpha = record.measures.alpha
        return PoolEvidence(record, seen.features, seen.known.squared_norms, plain, seen.given, alpha, limit)

    @property
    def picked(self) -> list[int]:
        """All picks, in the order of picking, pool by pool."""
        return [row for record in self.records for row in record.picked_rows]

    def texts(self, rows: Sequence[int]) -> list[StoredChat] | None:
        """These rows with their texts; None where the run kept none."""
        if self.store is not None:
            return self.store.chats(rows)
        path = self.directory / CHECKPOINT / TEXTS
        return read_texts(path, rows, "Delete it to go on without texts.") if path.exists() else None


def open_run(directory: Path) -> Evidence:
    """Read a finished run; gradients are read when they are asked for.

    Raises:
        OutputError: the directory holds no finished run, or a file of it is damaged.

    """
    manifest = _read_manifest(directory)
    try:
        config = RunConfig.model_validate(manifest["config"])
    except (KeyError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(f"{directory / MANIFEST}: its options cannot be used ({reason}).") from None
    records = [record for _, record in sorted(Checkpoint(directory / CHECKPOINT).records().items())]
    if not records:
        raise OutputError(f"{directory / CHECKPOINT}: holds no record of a candidate pool; run the selection again.")
    missing: list[str] = []
    lines = _lines(directory / SCORES)
    for record in records:
        if max(record.rows, default=0) >= len(lines):
            raise OutputError(
                f"{directory / CHECKPOINT / record_name(record.pool)}: is damaged (rows of it are not in {SCORES}).\n"
                "Run the selection again."
            )
    store = _store_of(directory, manifest, config, missing)
    evidence = Evidence(directory, config, lines, records, store, missing)
    if store is None and not missing and config.method not in WITHOUT_GRADIENTS:
        gone = _without_gram(directory, records)
        if gone:
            missing.append(f"{gone} of {len(records)} candidate pools have no Gram matrix in {CHECKPOINT}/.")
    if store is None and not (directory / CHECKPOINT / TEXTS).exists():
        missing.append(f"The rows' texts are not there ({CHECKPOINT}/{TEXTS}).")
    return evidence


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise OutputError(f"{directory}: holds no finished run; name a directory that run or pick wrote.") from None
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{path}: is damaged ({error}).") from None
    if not isinstance(content, dict) or cast(dict[str, Any], content).get("format") != FORMAT:
        raise OutputError(f"{directory}: holds no run, but another manifest; name a directory that run or pick wrote.")
    return cast(dict[str, Any], content)


def _lines(path: Path) -> Rows[Line]:
    try:
        return read_lines(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be read ({_first_line(error)}); run the selection again.") from None


def _store_of(directory: Path, manifest: dict[str, Any], config: RunConfig, missing: list[str]) -> GradientStore | None:
    if config.pool_size != "all" or config.method not in GREEDY:
        return None
    named: object = manifest.get("store", {"path": str(directory / CHECKPOINT / STORE), "sha256": None})
    try:
        named = cast("dict[str, Any]", named)
        place = Path(named["path"])
        if named["sha256"] not in (None, file_digest(place / STORE_MANIFEST)):
            raise OutputError(f"{place}: has changed since the choice.")
        if config.given is not None:
            GradientStore.open(config.given)
        return GradientStore.open(place)
    except (OutputError, ConfigError, OSError, ValueError, TypeError, KeyError) as error:
        missing.append(f"The gradients cannot be read: {_first_line(error)}")
        return None


def _without_gram(directory: Path, records: Sequence[PoolRecord]) -> int:
    checkpoint = Checkpoint(directory / CHECKPOINT)
    return sum(not checkpoint.has_gram(record.pool) for record in records if record.picks)


def _of_gram(gram: Tensor, record: PoolRecord, lengths: Sequence[int], config: RunConfig) -> PoolEvidence:
    assert record.measures is not None
    scaled = gram_as_seen(gram, lengths, record.quota, config)
    seen, plain = TensorFeatures(gram_features(scaled)), TensorFeatures(gram_features(gram))
    return PoolEvidence(
        record, seen, scaled.squared_norms, plain, None, record.measures.alpha, RowLimit(len(record.picks))
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
