"""The LoRA recipe of `finetune`, and of the files beside `train.parquet` for other trainers."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from spice_select.validation import validated


class Recipe(BaseModel):
    """Everything that decides a fine-tuning except its data and model.

    LoRA without dropout on all linear layers but the output layer; AdamW without weight decay, gradients clipped at
    norm 1, cosine schedule down to zero. Rank, alpha, rate and epochs are those of the paper's target training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: float = Field(
        default=3.0, gt=0, description="Passes over the rows; with a fraction the last one is partial."
    )
    learning_rate: float = Field(
        default=2e-4, gt=0, description="Peak of the learning rate; it falls to zero as a cosine."
    )
    lora_rank: int = Field(default=16, ge=1, description="Rank r of the adapters, on all linear layers.")
    lora_alpha: float = Field(
        default=32.0, gt=0, description="LoRA scaling numerator: adapters are scaled by alpha / r."
    )
    batch_size: int = Field(default=16, ge=1, description="Rows of one optimizer step, over all processes together.")
    warmup: float = Field(
        default=0.03, ge=0, lt=1, description="Share of all steps over which the rate rises from zero."
    )
    max_length: int = Field(default=2048, ge=8, description="Tokens kept of a row; longer rows are cut at the end.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seeds the adapters' start and the order of the rows.")


def resolve_recipe(values: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """Validate `values` over the defaults. Raises `ConfigError`, which names the key and what is wrong with it."""
    return validated(Recipe, values, origin)
