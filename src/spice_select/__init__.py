"""Choose the part of an instruction pool worth fine-tuning on: gradient information with a conflict penalty (SPICE).

from spice_select import select
result = select("pool.jsonl", budget="10%", output="chosen")
"""

import importlib
from typing import TYPE_CHECKING

from spice_select.threads import configure_threads

if TYPE_CHECKING:
    from spice_select.api.forecast import Forecast, forecast, forecast_finetune, forecast_gradients
    from spice_select.api.gradients import compute_gradients
    from spice_select.api.pick import pick
    from spice_select.api.push import push
    from spice_select.api.result import RunResult
    from spice_select.api.select import select
    from spice_select.config import RunConfig
    from spice_select.errors import SpiceSelectError
    from spice_select.evaluation.evaluate import Evaluation, evaluate
    from spice_select.file_options import FileOptions
    from spice_select.information import Selection, select_from_features, select_from_gram
    from spice_select.output.trainers import training_dataset
    from spice_select.progress import ProgressBar
    from spice_select.recipe import Recipe
    from spice_select.store.reading import GradientStore
    from spice_select.training.finetune import FinetuneResult, finetune

configure_threads()  # before anything imports torch

__all__ = [
    "Evaluation",
    "FileOptions",
    "FinetuneResult",
    "Forecast",
    "GradientStore",
    "ProgressBar",
    "Recipe",
    "RunConfig",
    "RunResult",
    "Selection",
    "SpiceSelectError",
    "compute_gradients",
    "evaluate",
    "finetune",
    "forecast",
    "forecast_finetune",
    "forecast_gradients",
    "pick",
    "push",
    "select",
    "select_from_features",
    "select_from_gram",
    "training_dataset",
]

_HOME = {
    "Evaluation": "evaluation.evaluate",
    "FileOptions": "file_options",
    "FinetuneResult": "training.finetune",
    "Forecast": "api.forecast",
    "GradientStore": "store.reading",
    "ProgressBar": "progress",
    "Recipe": "recipe",
    "RunConfig": "config",
    "RunResult": "api.result",
    "Selection": "information",
    "SpiceSelectError": "errors",
    "evaluate": "evaluation.evaluate",
    "finetune": "training.finetune",
    "compute_gradients": "api.gradients",
    "forecast": "api.forecast",
    "forecast_finetune": "api.forecast",
    "forecast_gradients": "api.forecast",
    "pick": "api.pick",
    "push": "api.push",
    "select": "api.select",
    "select_from_features": "information",
    "select_from_gram": "information",
    "training_dataset": "output.trainers",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use: torch takes seconds, and `--help` needs none of it."""
    if name not in _HOME:
        raise AttributeError(f"module 'spice_select' has no attribute '{name}'")
    return getattr(importlib.import_module(f"spice_select.{_HOME[name]}"), name)
