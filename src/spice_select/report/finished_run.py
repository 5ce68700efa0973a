"""A finished run as a report reads it: its rows, records and texts, and the gradients that it chose by.

run = open_run(Path("chosen"))
for pool in run.pools: pool.record, pool.scaled, pool.uncut

The scaled gradients are rebuilt by `scaled_gram_of`, `cut_gram_of`, `targeted_pool` and `scaled_pool`, which the choice
itself calls; no other module of the report calls `schedule` for them.
"""

# pyarrow ships no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor

from spice_select.choices import Measures, PoolRecord
from spice_select.config import RunConfig
from spice_select.errors import ConfigError, OutputError
from spice_select.files.directory import CHECKPOINT, MANIFEST, SCORES, read_manifest
from spice_select.files.records import file_digest
from spice_select.information import (
    FeatureRows,
    Limit,
    RowLimit,
    SelectionInputError,
    TensorFeatures,
    gram_features,
    random_draws,
    second_moment,
    subset_information,
)
from spice_select.option_values import FROM_STORE, NOUNS, WITHOUT_GRADIENTS
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.types import Line
from spice_select.progress import NoProgress
from spice_select.row_tables import StoredChat, read_lines, read_texts
from spice_select.schedule.budget import limit_of, lines_at
from spice_select.schedule.checkpoint import STORE, TARGET, TEXTS, Checkpoint, target_stores
from spice_select.schedule.pick_in_pool import cut_gram_of, scaled_gram_of, targeted_pool
from spice_select.schedule.whole_pool import scaled_pool
from spice_select.store.layout import MANIFEST as STORE_MANIFEST
from spice_select.store.reading import GradientStore

_TARGET_LOST = "Run the selection again."


@dataclass(frozen=True, slots=True, eq=False)
class PoolGradients:
    """The gradients of a candidate pool of m rows."""

    record: PoolRecord  # its picks
    measures: Measures  # of `record`
    scaled: FeatureRows  # [m, d] scaled and in their principal directions, as the choice saw them
    squared_norms: Tensor  # [m] |g|^2 of `scaled`
    uncut: FeatureRows  # [m, d'] scaled, in all their directions: their cosines are those of the gradients
    given: FeatureRows | None  # rows that were in the training set before the choice, as `scaled`
    uncut_given: FeatureRows | None  # the same rows, as `uncut`
    limit: Limit  # on what may be picked

    def information(self, rows: Sequence[int]) -> float:
        """U in nats of the rows at these places; with `given` rows, what is added to theirs."""
        before = None if self.given is None else second_moment(self.given)
        return subset_information(self.scaled, torch.tensor(rows), self.measures.alpha, before)

    def random_information(self, picks: Sequence[int], draws: int, seed: int) -> Tensor:
        """U in nats of random subsets with as many rows as `picks`, or tokens where these are budgeted, [draws]."""
        generator = torch.Generator().manual_seed(seed + self.record.pool)
        return random_draws(self.scaled, self.limit, picks, self.measures.alpha, draws, generator, self.given)


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished run."""

    directory: Path
    config: RunConfig
    lines: Rows[Line]  # one for every usable row
    records: list[PoolRecord]  # one for every candidate pool
    store: GradientStore | None  # that the run chose from, if any
    targets: list[GradientStore]  # of what it chose for, where it chose from a store
    missing: list[str]  # why gradients or texts are not available, each a sentence

    @cached_property
    def pools(self) -> list[PoolGradients]:
        """Candidate pools with a pick and gradients, read at the first access; raises `OutputError` for damage."""
        if self.store is not None:
            return [self._from_store(self.store)]
        return [pool for record in self.records if (pool := self._from_gram(record)) is not None]

    def _from_store(self, store: GradientStore) -> PoolGradients:
        record, config = self.records[0], self.config
        assert record.measures is not None
        limit = limit_of(config, lines_at(self.lines, record.rows))
        given = None if config.given is None else GradientStore.open(config.given, store.device)
        seen = scaled_pool(store, self.lines, record.rows, limit.most, config, given, self.targets, NoProgress())
        uncut, before = seen.uncut or (seen.features, seen.given)
        norms = seen.moments.squared_norms
        return PoolGradients(record, record.measures, seen.features, norms, uncut, seen.given, before, limit)

    def _from_gram(self, record: PoolRecord) -> PoolGradients | None:
        checkpoint = Checkpoint(self.directory / CHECKPOINT)
        gram = checkpoint.gram(record.pool) if record.picks and record.measures is not None else None
        if gram is None or record.measures is None:
            return None
        lengths: list[int] = self.lines.trained_tokens[record.rows].tolist()
        try:
            if record.target is None:
                whole = scaled_gram_of(gram, lengths, self.config)
                seen = cut_gram_of(whole, record.quota, self.config)
                scaled, norms = TensorFeatures(gram_features(seen)), seen.squared_norms
            else:
                weights = torch.tensor(record.target.weights, dtype=torch.float64)
                joint = scaled_gram_of(gram, [*lengths, *self._target_lengths], self.config)
                whole, aimed = joint.part(len(lengths)), targeted_pool(joint, len(lengths), weights, self.config)
                scaled, norms = aimed.moments.features, aimed.moments.squared_norms
            uncut = TensorFeatures(gram_features(whole))
        except SelectionInputError as error:
            path = checkpoint.gram_path(record.pool)
            raise OutputError(f"{path}: is damaged ({error}); delete it to go on without it.") from None
        limit = RowLimit(len(record.picks))
        return PoolGradients(record, record.measures, scaled, norms, uncut, None, None, limit)

    @cached_property
    def _target_lengths(self) -> list[int]:
        return read_lines(self.directory / CHECKPOINT / TARGET, _TARGET_LOST).trained_tokens.tolist()

    def target_chats(self) -> list[StoredChat] | None:
        """All target rows with their texts; None where they are missing."""
        if self.targets:
            return [chat for store in self.targets for chat in store.chats(range(store.rows))]
        path = self.directory / CHECKPOINT / TARGET
        if self.store is not None or not path.exists():
            return None
        return read_texts(path, range(len(read_lines(path, _TARGET_LOST))), _TARGET_LOST)

    @property
    def noun(self) -> str:
        """What texts call that by which rows were compared, in the singular."""
        return NOUNS[self.config.features]

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


def open_run(directory: Path) -> FinishedRun:
    """Read a finished run, without its gradients; raises `OutputError` if there is none or a file is damaged."""
    manifest, checkpoint = read_manifest(directory), Checkpoint(directory / CHECKPOINT)
    try:
        config = RunConfig.model_validate(manifest["config"])
    except (KeyError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(f"{directory / MANIFEST}: its options cannot be used ({reason}).") from None
    records = [record for _, record in sorted(checkpoint.records().items())]
    if not records:
        raise OutputError(f"{checkpoint.directory}: holds no record of a candidate pool; run the selection again.")
    lines = read_lines(directory / SCORES, "Run the selection again.")
    for record in records:
        if max(record.rows, default=0) >= len(lines):
            raise OutputError(
                f"{checkpoint.record_path(record.pool)}: is damaged (it names rows that {SCORES} does not "
                "hold).\nRun the selection again."
            )
    missing: list[str] = []
    store, targets = _open_stores(directory, manifest, config, missing) or (None, [])
    gone = sum(not checkpoint.gram_path(record.pool).exists() for record in records if record.picks)
    if gone and store is None and not missing and config.method not in WITHOUT_GRADIENTS:
        missing.append(f"The Gram matrices of {gone} of {len(records)} candidate pools are missing ({CHECKPOINT}/).")
    if store is None and not (checkpoint.directory / TEXTS).exists():
        missing.append(f"The texts of the rows are missing ({CHECKPOINT}/{TEXTS}).")
    return FinishedRun(directory, config, lines, records, store, targets, missing)


def _open_stores(
    directory: Path, manifest: dict[str, Any], config: RunConfig, missing: list[str]
) -> tuple[GradientStore, list[GradientStore]] | None:
    """The store that a choice among all rows was made from, and those of its targets.

    Where one cannot be read, `missing` says why.
    """
    if config.candidates != "all" or config.method not in FROM_STORE:
        return None
    own = [{"path": str(directory / CHECKPOINT / name), "sha256": None}
           for name in (STORE, *target_stores(len(config.target)))]  # fmt: skip
    try:
        stores = [manifest["store"], *manifest.get("target", [])] if "store" in manifest else own
        stores = cast("list[dict[str, Any]]", stores)
        for named in stores:
            place = Path(named["path"])
            if named["sha256"] not in (None, file_digest(place / STORE_MANIFEST)):
                raise OutputError(f"{place}: has changed since the choice.")
        if config.given is not None:
            GradientStore.open(config.given)
        store, *targets = [GradientStore.open(named["path"]) for named in stores]
    except (OutputError, ConfigError, OSError, ValueError, TypeError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        missing.append(f"The {NOUNS[config.features]}s cannot be read: {reason}")
        return None
    return store, targets
