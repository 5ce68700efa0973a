"""The options of a selection while training, and the trainers that it cannot be part of."""

from collections.abc import Mapping
from typing import Any, cast

import datasets
from accelerate.utils import DistributedType
from transformers import Trainer

from spice_select.config import RunConfig
from spice_select.errors import ConfigError
from spice_select.methods import GRADIENT_METHODS
from spice_select.option_values import GREEDY
from spice_select.validation import validated

OPTIONS = (
    "method", "penalty", "scale", "directions", "fisher_alpha", "fisher_alpha_mode", "seed", "target_rule",
    "target_share", "keep_target_rows", "on_bad_gradient", "batch_tokens", "gradient_memory",
)  # fmt: skip
"""Options of a run that a selection while training has, too."""
TARGET = "target"
"""What the target's rows are called."""


def run_config(
    trainer: Trainer, options: Mapping[str, Any], candidates: int, update_every: int | str, *, aimed: bool
) -> RunConfig:
    """The options as those of a run in candidate pools, whose model is the trainer's. Raises `ConfigError`."""
    for key in options:
        if key not in OPTIONS:
            raise ConfigError(f"SelectingSampler: unknown option '{key}'; it takes {', '.join(OPTIONS)}.")
    model = cast(Any, trainer.model)
    schedule = {"candidates": candidates, "update_every": update_every, "warmup_steps": 0}
    own = {"seed": trainer.args.seed, "model": str(model.config.name_or_path or "the trainer's model")}
    goal = {TARGET: [TARGET]} if aimed else {}
    config = validated(RunConfig, {**own, **options, **schedule, **goal}, "SelectingSampler")
    if config.method not in (*GREEDY, *GRADIENT_METHODS) or config.candidates == "all":
        methods = ", ".join((*GREEDY, *GRADIENT_METHODS))
        raise ConfigError(
            f"SelectingSampler chooses by {methods} in candidate pools of a number of rows, "
            f"not by {config.method} with candidates={config.candidates}."
        )
    return config


def refuse_what_cannot_be_measured(trainer: Trainer) -> None:
    """Raise `ConfigError` where the trainer's settings do not allow a selection while training."""
    args, accelerator = trainer.args, trainer.accelerator
    loading, kind = cast(Any, args.accelerator_config), accelerator.distributed_type
    split = kind != DistributedType.NO and not kind.value.startswith("MULTI_")
    for conflict, message in (
        (trainer.train_dataset is None or isinstance(trainer.train_dataset, datasets.IterableDataset),
         "the trainer needs a train_dataset with a place for each row, not a stream: candidates are drawn from it."),
        (split or accelerator.parallelism_config is not None,
         f"{kind.value} training splits the model between processes; launch data parallelism (DDP) by torchrun."),
        (args.n_gpu > 1,
         "one process would use several GPUs; launch one for each: torchrun --nproc-per-node N script.py."),
        (accelerator.mixed_precision not in ("no", "bf16"),
         f"mixed precision {accelerator.mixed_precision} may lose small gradients of rows; train with bf16=True."),
        (args.dataloader_num_workers > 0,
         "workers would read batches before the step ahead of them is trained: set dataloader_num_workers=0."),
        (bool(loading.split_batches or loading.dispatch_batches),
         "each process makes its own batches: leave split_batches and dispatch_batches of accelerator_config out."),
        (args.auto_find_batch_size,
         "a smaller batch would begin the order anew on a trained model: set auto_find_batch_size=False."),
        (args.ignore_data_skip,
         "a resumed training repeats the order up to its checkpoint: set ignore_data_skip=False."),
    ):  # fmt: skip
        if conflict:
            raise ConfigError(message)
