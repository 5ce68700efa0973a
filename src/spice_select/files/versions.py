"""Versions of the packages that can change a result."""

import importlib.metadata
import platform

DECISIVE = ("spice-select", "torch", "transformers", "peft", "tokenizers")
"""Packages whose versions must agree for gradients to agree."""


def decisive_versions() -> dict[str, str]:
    """Versions of `DECISIVE`."""
    return {name: importlib.metadata.version(name) for name in DECISIVE}


def versions() -> dict[str, str]:
    """Python, the platform, and every package that can change a result."""
    others = {name: importlib.metadata.version(name) for name in ("datasets", "safetensors")}
    return {"python": platform.python_version(), "platform": platform.platform(), **decisive_versions(), **others}
