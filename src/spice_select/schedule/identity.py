"""What must stay the same for a run to be resumed, and for a store to be completed or compared."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from spice_select.amounts import parse_target
from spice_select.files.records import file_digest
from spice_select.files.versions import decisive_versions
from spice_select.gradients.projection import METHOD
from spice_select.prepared import Prepared
from spice_select.store.layout import MANIFEST, Shape, shard_rows

MACHINE_KEYS = {"token_budget", "gradient_memory", "parquet", "device", "skip_invalid", "on_bad_gradient", "preset"}
"""Options that may differ between a run and its resumption: none changes which rows a finished run has chosen."""

FEATURE_KEYS = (
    "dtype", "lora_rank", "lora_alpha", "layers", "seed", "warmup_steps", "learning_rate", "lr_warmup_steps",
    "update_batch_size", "max_length", "token_budget", "dim",
)  # fmt: skip
"""Options that determine a row's features."""

POOL_KEYS = ("data", "rows", "format", "columns", "per_file", "shard_rows")
"""What may differ between two stores whose features are comparable."""


def run_identity(prepared: Prepared, processes: int) -> dict[str, Any]:
    """Everything that determines the subset of a run."""
    config = prepared.config
    decisive = {key: value for key, value in config.model_dump().items() if key not in MACHINE_KEYS | {"chat_template"}}
    if config.dtype != "float32" or config.pool_size == "all":
        decisive["token_budget"] = config.token_budget  # rounding depends on the batches in these cases
    if config.dtype != "float32" and config.pool_size != "all":
        decisive["processes"] = processes  # and on how the processes share a training step
    if config.exclude is not None:
        decisive["exclude"] = file_digest(Path(config.exclude))
    if config.given is not None:
        decisive["given"] = file_digest(Path(config.given) / MANIFEST)
    if prepared.targets:
        decisive["target"] = [parse_target(place)[1] for place in config.target]  # where they lie is no matter
        decisive["target_data"] = [file.sha256 for target in prepared.targets for file in target.files]
    return {**decisive, "data": _digests(prepared), **_environment(prepared)}


def store_identity(prepared: Prepared) -> dict[str, Any]:
    """Everything that determines the content of a store."""
    config = prepared.config
    return {
        **{key: getattr(config, key) for key in FEATURE_KEYS},
        "projection": METHOD,
        "shard_rows": store_shape(prepared).shard_rows,
        **_environment(prepared),
        "rows": len(prepared.pool.examples),
        "data": _digests(prepared),
        "format": config.format,
        "columns": config.columns,
        "per_file": {name: asdict(own) for name, own in config.per_file.items()},
    }


def store_shape(prepared: Prepared) -> Shape:
    """Rows, dimensions and shards of the pool's store."""
    rows, dim = len(prepared.pool.examples), prepared.config.dim
    return Shape(rows, dim, shard_rows(prepared.device, rows, dim))


def _digests(prepared: Prepared) -> list[str]:
    return [file.sha256 for file in prepared.pool.files]


def _environment(prepared: Prepared) -> dict[str, Any]:
    return {
        "weights": prepared.about["fingerprint"],
        **({"chat_template": prepared.about["chat_template"]} if "chat_template" in prepared.about else {}),
        "device": prepared.about["device"],
        "versions": decisive_versions(),
    }
