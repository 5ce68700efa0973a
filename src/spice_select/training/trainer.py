"""TRL's SFTTrainer on given rows, quiet and reproducible. TRL is imported when it is used."""

import logging
import os
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback
from transformers import __version__ as transformers_version

from spice_select.distributed.launch import process_count
from spice_select.errors import ConfigError, ModelError, NotFiniteError
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.progress import Progress
from spice_select.proxy.loading import load_model
from spice_select.recipe import Recipe
from spice_select.training.callback import Steps
from spice_select.training.plan import TrainingPlan

if TYPE_CHECKING:
    import datasets
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig  # pyright: ignore[reportPrivateImportUsage]

LARGE = 1_000_000_000
"""Parameters from which activations are recomputed instead of stored."""

_WARMUP = "warmup_ratio" if transformers_version.startswith("4.") else "warmup_steps"
"""The name under which transformers takes the share of all steps."""

OUT_OF_MEMORY = "Lower --rows-at-once (the result stays the same) or --max-length, or use --dtype bfloat16."


def load_adapted(plan: TrainingPlan, progress: Progress) -> "PeftModel":
    """The model with fresh adapters, on the CPU. Raises `ModelError` as `load_model` and `add_lora` do."""
    progress.note(f"loading {plan.config.model}")
    loaded = load_model(plan.source, plan.config.dtype, torch.device("cpu"))
    return add_lora(loaded, plan.recipe, plan.base, plan.base_revision)


def add_lora(model: "PreTrainedModel", recipe: Recipe, base: str, revision: str | None) -> "PeftModel":
    """Add adapters to all linear layers of `model`, on the CPU: A depends on the recipe's seed alone, B is zero.

    adapter_config.json records `base` and its `revision`. Raises `ModelError` if PEFT finds no linear layer.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        revision=revision,
    )
    model.name_or_path = base  # what PEFT calls the base model
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(recipe.seed)
        try:
            return get_peft_model(model, config)  # pyright: ignore[reportReturnType]
        except ValueError as error:
            raise ModelError(f"LoRA cannot be added to {type(model).__name__}: {error}") from error


def train(
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    dataset: "datasets.Dataset",
    plan: TrainingPlan,
    steps: Steps,
) -> float:
    """Train the adapters of `model` in place by the plan's recipe; return seconds without preparation.

    `steps` collects the losses: of a step, the mean over all trained tokens of its rows, in all processes. The global
    random generators are seeded. Raises `SpiceSelectError` if the Trainer cannot use the device, memory runs out, or
    the loss is not finite.
    """
    from trl import SFTTrainer  # pyright: ignore[reportPrivateImportUsage]
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    with _quiet(), tempfile.TemporaryDirectory(prefix="spice-select-") as scratch:
        args = _arguments(plan, scratch, large=model.num_parameters() >= LARGE)
        with explain_out_of_memory(OUT_OF_MEMORY, "fine-tuning"):
            trainer = SFTTrainer(
                model=model,
                args=args,
                train_dataset=dataset,
                # Padding gets neither attention nor a label: any token serves, and the tokenizer needs no pad token.
                data_collator=DataCollatorForLanguageModeling(pad_token_id=0),
                processing_class=tokenizer,
                callbacks=[steps],
            )
            trainer.remove_callback(PrinterCallback)
            seconds = float(trainer.train().metrics["train_runtime"])
    if steps.diverged:
        raise NotFiniteError(
            f"the loss or the gradient of step {len(steps.losses)} is not finite, so the training was stopped.\n"
            "Lower --learning-rate, or use --dtype float32."
        )
    return seconds


def _arguments(plan: TrainingPlan, scratch: str, *, large: bool) -> "SFTConfig":
    from trl import SFTConfig  # pyright: ignore[reportPrivateImportUsage]

    recipe, device = plan.recipe, plan.device
    warmup: dict[str, Any] = {_WARMUP: recipe.warmup}
    # transformers 4 leaves here what a training in bfloat16 set, and takes it for the next one.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if plan.config.dtype == "bfloat16" else "no"
    args = SFTConfig(
        output_dir=scratch,
        max_length=recipe.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},  # tokenised, cut and labelled already
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        **warmup,
        optim="adamw_torch",
        per_device_train_batch_size=plan.split.rows_at_once,
        gradient_accumulation_steps=plan.split.accumulation,
        gradient_checkpointing=large,
        seed=recipe.seed,
        use_cpu=device.type == "cpu",
        bf16=plan.config.dtype == "bfloat16",
        ddp_find_unused_parameters=False,  # every adapter takes part in every step
        dataloader_pin_memory=device.type == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would replace a NaN by another step's loss
        disable_tqdm=True,
        log_level="error",
        report_to="none",
        save_strategy="no",
    )
    if args.device.type != device.type or (process_count() == 1 and (device.index or 0) != 0):
        raise ConfigError(
            f"device '{device}': fine-tuning uses the first visible device, here {args.device}.\n"
            "Choose one by the environment variable CUDA_VISIBLE_DEVICES, with --device auto."
        )
    # Without a launcher the Trainer would spread a batch over all visible devices, which TRL refuses.
    args._n_gpu = min(args.n_gpu, 1)  # pyright: ignore[reportPrivateUsage]
    return args


@contextmanager
def _quiet() -> Generator[None]:
    """Hide warnings of these libraries, which concern arguments that this module sets."""
    loggers = [logging.getLogger(name) for name in ("trl", "peft", "accelerate", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
