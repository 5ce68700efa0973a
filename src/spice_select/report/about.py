"""What a run was made of, for the top of its page: model, options that matter, seed, version, date, pool and target."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spice_select.config import RunConfig
from spice_select.option_values import factor_of

SHOWN = ("method", "features", "candidates", "budget", "scale", "penalty")
"""Options that are named whatever their values."""
ELSEWHERE = {
    "model", "seed", "target", "device", "batch_tokens", "gradient_memory", "parquet", "skip_invalid",
    "on_bad_gradient", "chat_template", "trust_remote_code", "dtype", "preset",
}  # fmt: skip
"""Options with a label of their own, and those that change no choice."""


def about(manifest: Mapping[str, Any], config: RunConfig) -> list[tuple[str, str]]:
    """Labels and values; what the manifest does not hold is left out."""
    values, inputs = config.model_dump(), manifest.get("inputs", [])
    usual = RunConfig.model_construct().model_dump()
    others = [name for name, value in values.items() if name not in {*SHOWN, *ELSEWHERE} and value != usual.get(name)]
    values["scale"] = factor_of(config.scale, config.features)
    options = [f"{name.replace('_', ' ')} {_shown(values[name])}" for name in (*SHOWN, *others)]
    found = {
        "model": str(manifest.get("model", {}).get("name", config.model)),
        "options": ", ".join(options),
        "seed": str(config.seed),
        "version": str(manifest.get("versions", {}).get("spice-select", "")),
        "date": str(manifest.get("date", "")),
        "pool": ", ".join(f"{one.get('label', one.get('name'))} ({one.get('rows', 0):,} rows)" for one in inputs),
        "target": ", ".join(Path(place).name for place in config.target),
    }
    return [(label, value) for label, value in found.items() if value]


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={one}" for key, one in value.items())  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return str(value)
