"""What must stay the same for a run to be resumed, and for a store to be completed or compared."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spice_select.amounts import parse_target
from spice_select.files.records import file_digest
from spice_select.files.versions import decisive_versions
from spice_select.gradients.projection import METHOD
from spice_select.prepared import Prepared
from spice_select.store.layout import MANIFEST, Shape, shard_rows

MACHINE_KEYS = {"batch_tokens", "gradient_memory", "parquet", "device", "skip_invalid", "on_bad_gradient", "preset"}
"""Options that may differ between a run and its resumption: none changes which rows a finished run has chosen."""

LATER_KEYS = {"constants", "judge", "eval_share"}
"""Options that runs of earlier versions do not name: left out where they are empty, so that these can be resumed."""

STATE_KEYS = ("features", "dtype", "max_length", "batch_tokens")
"""Options that determine a row's state."""

FEATURE_KEYS = (
    *STATE_KEYS, "lora_rank", "lora_alpha", "layers", "seed", "warmup_steps", "learning_rate", "lr_warmup_steps",
    "update_batch_size", "dim",
)  # fmt: skip
"""Options that determine a row's gradient."""

POOL_KEYS = ("data", "rows", "format", "columns", "per_file", "shard_rows")
"""What may differ between two stores whose features are comparable."""


def run_identity(prepared: Prepared, processes: int) -> dict[str, Any]:
    """Everything that determines the subset of a run."""
    config = prepared.config
    empty = {key for key in LATER_KEYS if not getattr(config, key)}
    left_out = MACHINE_KEYS | {"chat_template"} | empty
    decisive = {key: value for key, value in config.model_dump().items() if key not in left_out}
    if config.dtype != "float32" or config.candidates == "all":
        decisive["batch_tokens"] = config.batch_tokens  # rounding depends on the batches in these cases
    if config.dtype != "float32" and config.candidates != "all":
        decisive["processes"] = processes  # and on how the processes share a training step
    if config.exclude is not None:
        decisive["exclude"] = file_digest(Path(config.exclude))
    if config.given is not None:
        decisive["given"] = file_digest(Path(config.given) / MANIFEST)
    if prepared.targets:
        decisive["target"] = [parse_target(place)[1] for place in config.target]  # where they lie is no matter
        decisive["target_data"] = [file.sha256 for target in prepared.targets for file in target.files]
    if "judges" in prepared.about:
        decisive["judge_weights"] = [judge["fingerprint"] for judge in prepared.about["judges"]]
    return {**decisive, "data": _digests(prepared), **_environment(prepared)}


def store_identity(prepared: Prepared) -> dict[str, Any]:
    """Everything that determines the content of a store."""
    config, is_state = prepared.config, prepared.config.features == "states"
    return {
        **{key: getattr(config, key) for key in (STATE_KEYS if is_state else FEATURE_KEYS)},
        **({} if is_state else {"projection": METHOD}),
        "shard_rows": store_shape(prepared, config.dim).shard_rows,
        **_environment(prepared),
        "rows": len(prepared.pool.examples),
        "data": _digests(prepared),
        "format": config.format,
        "columns": config.columns,
        "per_file": {name: asdict(own) for name, own in config.per_file.items()},
    }


def store_shape(prepared: Prepared, dim: int) -> Shape:
    """Rows, dimensions and shards of the pool's store, whose features have `dim` dimensions."""
    rows = len(prepared.pool.examples)
    # By the option: how wide states are is not known before the model is loaded.
    return Shape(rows, dim, shard_rows(prepared.device, rows, prepared.config.dim), prepared.config.features)


def as_target(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a store whose rows can be the target of a choice from one of `identity`.

    Those of preconditioned gradients are plain gradients.
    """
    features = identity["features"]
    return {**identity, "features": "gradients" if features == "preconditioned" else features}


def _digests(prepared: Prepared) -> list[str]:
    return [file.sha256 for file in prepared.pool.files]


def _environment(prepared: Prepared) -> dict[str, Any]:
    return {
        "weights": prepared.about["fingerprint"],
        **({"chat_template": prepared.about["chat_template"]} if "chat_template" in prepared.about else {}),
        "device": prepared.about["device"],
        "versions": decisive_versions(),
    }
