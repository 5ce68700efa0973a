"""`manifest.json`, format version 1: what was run, on which data and model, with what result and certificate."""

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spice_select.choices import PoolRecord
from spice_select.config import RunConfig
from spice_select.files.atomic import write_text
from spice_select.files.directory import FORMAT
from spice_select.output.summary import Summary
from spice_select.pool.types import Listing

FORMAT_VERSION = 1
PACKAGES = ("spice-select", "torch", "transformers", "peft", "tokenizers", "datasets", "safetensors")


def manifest(
    config: RunConfig,
    pool: Listing,
    model: dict[str, Any],
    records: Sequence[PoolRecord],
    summary: Summary,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Everything needed to tell, later, how the subset came about."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": config.model_dump(),
        "versions": versions(),
        "model": model,
        "inputs": [asdict(file) for file in pool.files],
        "totals": {
            "tokens": pool.total_tokens,
            "trained_tokens": pool.trained_tokens,
            "truncated": pool.truncated,
            "rejected": len(pool.rejected),
            **asdict(summary),
        },
        "pools": [_pool(record) for record in records],
        "seconds": {key: round(value, 3) for key, value in seconds.items()},
    }


def versions() -> dict[str, str]:
    """Python, the platform and the packages that can change a result."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "platform": platform.platform(), **found}


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Write it; being the last file of a run, it marks the run complete."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _pool(record: PoolRecord) -> dict[str, Any]:
    line: dict[str, Any] = {
        "pool": record.pool,
        "rows": len(record.rows),
        "not_finite": len(record.bad),
        "quota": record.quota,
        "picked": len(record.picks),
        "stopped_early": record.stopped_early,
        "seconds": round(record.seconds, 3),
    }
    if record.measures is not None:
        m = record.measures
        line |= {
            "alpha": m.alpha,
            "information": m.information,
            "random_information": m.random_information,
            "bound": m.bound,
            "bound_source": m.bound_source,
            "certificate": m.certificate,
            "curvature": m.curvature,
        }
    return line
