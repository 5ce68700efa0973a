"""Writes a run's directory: the chosen rows, the scores, the trainers' files and, last, the manifest."""

# pyarrow ships no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spice_select.choices import PoolRecord
from spice_select.config import RunConfig
from spice_select.config_file import dump_yaml
from spice_select.errors import OutputError
from spice_select.files.atomic import replacing, write_text
from spice_select.files.directory import FORMAT, MANIFEST, SCORES
from spice_select.files.records import write_json
from spice_select.files.versions import versions
from spice_select.output.recipes import ModelToTrain, trainer_files
from spice_select.output.scores import write_scores
from spice_select.output.summary import Summary
from spice_select.output.trainers import EVAL_FILE, TRAIN_FILE, held_out, training_row, training_table
from spice_select.pool.types import Listing, Rejection
from spice_select.row_tables import Chat, plain_json
from spice_select.stopwatch import Stopwatch

FORMAT_VERSION = 1
POOL_MEASURES = (
    "alpha", "information", "random_information", "bound", "bound_source", "certificate", "curvature",
    "guarantee",
)  # fmt: skip
"""What the manifest holds of each pool, beside its counts."""


def write_run(
    directory: Path,
    config: RunConfig,
    pool: Listing,
    chosen: Sequence[Chat],
    records: Sequence[PoolRecord],
    summary: Summary,
    model: ModelToTrain,
    watch: Stopwatch,
    origin: Mapping[str, Any],
) -> None:
    """Write every file of a finished run but its report; the manifest comes last and marks the run complete.

    `chosen` are the chosen rows in the order of `pool`; the manifest takes over `origin` and the seconds of `watch`.
    Raises `OutputError` where a file cannot be written.
    """
    with watch.time("writing"):
        write_jsonl(directory / "selected.jsonl", (chat.row.data for chat in chosen))
        if config.parquet:
            _write_parquet(directory / "selected.parquet", [chat.row.data for chat in chosen])
        if pool.rejected:
            write_jsonl(directory / "rejected.jsonl", map(_rejected, pool.rejected))
        write_scores(directory / SCORES, pool.lines, records)
        held = held_out(len(chosen), config.eval_share, config.seed)
        write_training_table(directory / TRAIN_FILE, [chat for i, chat in enumerate(chosen) if i not in held])
        if held:
            write_training_table(directory / EVAL_FILE, [chosen[i] for i in sorted(held)])
        for name, text in trainer_files(model, summary, len(held)).items():
            write_text(directory / name, text)
        write_text(directory / "run.yaml", dump_yaml(config, [file.path for file in pool.files], str(directory)))
    held_as = {"file": EVAL_FILE, "share": config.eval_share, "seed": config.seed, "rows": len(held)} if held else None
    write_manifest(directory, config, pool, records, summary, watch, {**origin, "evaluation": held_as})


def write_manifest(
    directory: Path,
    config: RunConfig,
    pool: Listing,
    records: Sequence[PoolRecord],
    summary: Summary,
    watch: Stopwatch,
    origin: Mapping[str, Any],
) -> None:
    """Write the manifest, which marks a run complete; arguments as of `write_run`."""
    totals = {"tokens": pool.total_tokens, "trained_tokens": pool.trained_tokens, "truncated": pool.truncated,
              "rejected": len(pool.rejected)}  # fmt: skip
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": config.model_dump(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        **origin,
        "inputs": [asdict(file) for file in pool.files],
        "totals": {**totals, **asdict(summary)},
        "pools": [_pool(record) for record in records],
        "seconds": {key: round(value, 3) for key, value in watch.seconds.items()},
    }
    write_json(directory / MANIFEST, manifest)


def write_training_table(path: Path, chosen: Sequence[Chat]) -> None:
    """`train.parquet` or `eval.parquet`: rows as chats in one schema."""
    table = training_table([training_row(chat.conversation, chat.id, chat.row.source) for chat in chosen])
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, with all fields of each row; raises `OutputError` where a value has no JSON form."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        stream.writelines(plain_json(row) + "\n" for row in rows)


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The same rows as a table; raises `OutputError` where a field's values differ in type."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    try:
        table = pa.Table.from_pylist([{key: row.get(key) for key in columns} for row in rows])
        with replacing(path) as temporary:
            pq.write_table(table, temporary)
    except (pa.ArrowException, OverflowError) as error:
        raise OutputError(
            f"{path.name}: the rows do not share one schema ({str(error).splitlines()[0]}).\n"
            "Run the command again without --parquet (run: with --resume); selected.jsonl holds any mixture."
        ) from None


def _rejected(row: Rejection) -> dict[str, Any]:
    return {"source": row.source, "location": row.location, "row": row.number, "reason": row.reason, "raw": row.raw}


def _pool(record: PoolRecord) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "pool": record.pool, "rows": len(record.rows), "not_finite": len(record.bad), "leaks": len(record.leaks),
        "quota": record.quota, "picked": len(record.picks), "stopped_early": record.stopped_early,
        "seconds": round(record.seconds, 3),
    }  # fmt: skip
    if record.target is not None:
        target = record.target
        means = {name: target.mean(getattr(target, name)) for name in ("picks", "whole", "random")}
        counts["coverage"] = {**means, "certificate": target.certificate}
    if record.measures is None:
        return counts
    everywhere = record.measures.all_directions
    measures = {name: getattr(record.measures, name) for name in POOL_MEASURES}
    return counts | measures | {"all_directions": None if everywhere is None else asdict(everywhere)}
