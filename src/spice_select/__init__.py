"""Choose the part of an instruction pool worth fine-tuning on: gradient information with a conflict penalty (SPICE).

from spice_select import select
result = select("pool.jsonl", budget="10%", output="chosen")
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spice_select.api import RunResult, select
    from spice_select.config import RunConfig
    from spice_select.errors import SpiceSelectError
    from spice_select.information import Selection, select_from_gram
    from spice_select.output.trainers import training_dataset

__all__ = [
    "RunConfig",
    "RunResult",
    "Selection",
    "SpiceSelectError",
    "select",
    "select_from_gram",
    "training_dataset",
]

_HOME = {
    "RunConfig": "config",
    "RunResult": "api",
    "Selection": "information",
    "SpiceSelectError": "errors",
    "select": "api",
    "select_from_gram": "information",
    "training_dataset": "output.trainers",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use: torch takes seconds, and `--help` needs none of it."""
    if name not in _HOME:
        raise AttributeError(f"module 'spice_select' has no attribute '{name}'")
    return getattr(importlib.import_module(f"spice_select.{_HOME[name]}"), name)
