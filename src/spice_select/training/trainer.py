"""TRL's SFTTrainer on given rows, quiet and reproducible. TRL is imported here only, at its first use."""

import logging
import tempfile
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback
from transformers.utils import logging as transformers_logging

from spice_select.distributed.launch import process_count
from spice_select.errors import ConfigError, ModelError, SpiceSelectError
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.output.trainers import IGNORED
from spice_select.recipe import Recipe
from spice_select.training.callback import Steps
from spice_select.training.processes import Share

if TYPE_CHECKING:
    import datasets
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig  # pyright: ignore[reportPrivateImportUsage]

LARGE = 1_000_000_000
"""Parameters from which activations are computed twice instead of being kept."""

OUT_OF_MEMORY = (
    "Lower --rows-at-once (the result stays the same) or --max-length, or load the weights with --dtype bfloat16."
)


def require_trl() -> None:
    """Fail early where TRL is not installed.

    Raises:
        SpiceSelectError: says how to install it.

    """
    try:
        import trl  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise SpiceSelectError(
            f"fine-tuning needs TRL, which cannot be imported ({error}).\nRun: pip install 'spice-select[train]'"
        ) from error


def add_lora(model: "PreTrainedModel", recipe: Recipe, base: str, revision: str | None) -> "PeftModel":
    """Put trainable adapters on all linear layers of `model`: A random from the recipe's seed alone, B zero.

    Args:
        model: on the CPU, whose generator draws A.
        recipe: rank, alpha and seed.
        base: under which name others find the model; it goes into adapter_config.json.
        revision: of `base`.

    Raises:
        ModelError: PEFT finds no linear layer.

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
    recipe: Recipe,
    share: Share,
    device: torch.device,
    dtype: str,
    steps: Steps,
) -> float:
    """Train the adapters of `model` in place; `steps` collects the losses.

    The loss of a step is the mean over all trained tokens of its rows, in all processes. The global random
    generators are seeded on the way.

    Returns:
        Seconds of the training itself, without preparation.

    Raises:
        ConfigError: the Trainer cannot use `device`.
        ModelError: memory runs out.
        SpiceSelectError: the loss is not a finite number.

    """
    from trl import SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

    with _quiet(), tempfile.TemporaryDirectory(prefix="spice-select-") as scratch:
        args = _arguments(recipe, share, device, dtype, scratch, large=model.num_parameters() >= LARGE)
        with explain_out_of_memory(OUT_OF_MEMORY, "fine-tuning"):
            trainer = SFTTrainer(
                model=model,
                args=args,
                train_dataset=dataset,
                data_collator=pad_rows,
                processing_class=tokenizer,
                callbacks=[steps],
            )
            trainer.remove_callback(PrinterCallback)
            seconds = float(trainer.train().metrics["train_runtime"])
    if steps.diverged:
        raise SpiceSelectError(
            f"the loss or the gradient of step {len(steps.losses)} is not finite, so the training was stopped.\n"
            "Lower --learning-rate, or use --dtype float32."
        )
    return seconds


def pad_rows(rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
    """Pad a batch on the right: `input_ids`, `labels` and `attention_mask`, each [rows, longest] int64.

    Any token will do as padding, because it gets neither attention nor label; so the tokenizer needs no pad token.
    """

    def padded(sequences: list[Sequence[int]], value: int) -> Tensor:
        return pad_sequence([torch.tensor(s) for s in sequences], batch_first=True, padding_value=value)

    return {
        "input_ids": padded([row["input_ids"] for row in rows], 0),
        "labels": padded([row["labels"] for row in rows], IGNORED),
        "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
    }


def _arguments(
    recipe: Recipe, share: Share, device: torch.device, dtype: str, scratch: str, *, large: bool
) -> "SFTConfig":
    from trl import SFTConfig  # pyright: ignore[reportPrivateImportUsage]

    args = SFTConfig(
        output_dir=scratch,
        max_length=recipe.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},  # tokenised, cut and labelled already
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup,  # below 1: a share of all steps
        optim="adamw_torch",
        per_device_train_batch_size=share.rows_at_once,
        gradient_accumulation_steps=share.accumulation,
        gradient_checkpointing=large,
        seed=recipe.seed,
        use_cpu=device.type == "cpu",
        bf16=dtype == "bfloat16",
        ddp_find_unused_parameters=False,  # every adapter takes part in every step
        dataloader_pin_memory=device.type == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would put another step's loss in place of a NaN
        disable_tqdm=True,
        log_level="error",
        report_to="none",
        save_strategy="no",
    )
    if args.device.type != device.type or (process_count() == 1 and (device.index or 0) != 0):
        raise ConfigError(
            f"device '{device}': fine-tuning takes the first device that it sees, here {args.device}.\n"
            "Say which with the environment variable CUDA_VISIBLE_DEVICES, and --device auto."
        )
    # Without a launcher the Trainer would spread a batch over all visible devices, which TRL refuses.
    args._n_gpu = min(args.n_gpu, 1)  # pyright: ignore[reportPrivateUsage]
    return args


@contextmanager
def _quiet() -> Generator[None]:
    """Let only errors of the libraries through; what they warn about is settled here and not the user's to mend."""
    loggers = [logging.getLogger(name) for name in ("trl", "peft", "accelerate")]
    levels = [logger.level for logger in loggers]
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
