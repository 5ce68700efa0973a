"""LoRA on the proxy: attached by PEFT to every linear layer but the output layer, seeded, without dropout."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from spice_select.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy language model: frozen base, LoRA factors by name (A [r, in] and B [out, r] of each layer)."""

    model: "PreTrainedModel"
    factors: dict[str, nn.Linear]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self.factors.values())).weight.device

    @property
    def parameters(self) -> int:
        """P, the length of a per-sample gradient."""
        return sum(layer.weight.numel() for layer in self.factors.values())


def attach_lora(model: "PreTrainedModel", rank: int, alpha: float, seed: int) -> Proxy:
    """Add adapters (A random from `seed`, B zero) to all linear layers of `model`, whose forward pass then uses them.

    Raises:
        ModelError: PEFT finds no linear layer.

    """
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", lora_dropout=0.0)  # pyright: ignore[reportArgumentType]
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about transformers' own names and GPT-2's Conv1D; not the user's
                adapted = get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(f"LoRA cannot be added to {type(model).__name__}: {error}") from error
    assert isinstance(adapted, PeftModel)
    adapted.eval()
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    factors = {
        name: module
        for name, module in modules
        if isinstance(module, nn.Linear) and (".lora_A." in name or ".lora_B." in name)
    }
    for layer in factors.values():
        layer.weight.requires_grad_(False)
    return Proxy(model, factors)
