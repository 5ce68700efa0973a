"""The LoRA layers of a model that is being trained, and passes over it that leave no trace."""

import random
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from spice_select.errors import ModelError
from spice_select.gradients.capture import AdaptedLayer, factors_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def layers_of(model: object) -> tuple["PreTrainedModel", dict[str, AdaptedLayer]]:
    """The transformers model inside a PEFT model, and its layers with LoRA by name; each runs its own code unchanged.

    Raises `ModelError` if there are none, or if anything else than their factors is trained: it has no gradient here.
    """
    if not isinstance(model, PeftModel):
        raise ModelError(
            f"the trainer's model is a {type(model).__name__}, not a PEFT model: only LoRA's gradients are measured.\n"
            "Give SFTTrainer a peft_config, or wrap the model with peft.get_peft_model(model, LoraConfig(...))."
        )
    if len(model.active_adapters) != 1:
        raise ModelError(
            f"several adapters are active ({', '.join(model.active_adapters)}), and one is trained.\n"
            "Activate that one alone: model.set_adapter(NAME)."
        )
    base = cast("PreTrainedModel", model.get_base_model())
    modules = cast("Iterable[tuple[str, nn.Module]]", base.named_modules())
    adapted = ((name, _adapted(name, module, model.active_adapters[0])) for name, module in modules)
    found = {name: layer for name, layer in adapted if layer is not None}
    measured = {id(factor.weight) for factor in factors_of(found).values()}
    trained = {id(weight): name for name, weight in model.named_parameters() if weight.requires_grad}
    if others := [name for key, name in trained.items() if key not in measured]:
        raise ModelError(
            f"{others[0]} is trained, but is no factor of LoRA on a linear layer: its gradient is not measured.\n"
            "Train with a LoraConfig of linear layers without modules_to_save, trainable tokens, biases or DoRA."
        )
    if not found or measured - trained.keys():
        raise ModelError(
            "the model has no LoRA layer whose factors are all trained.\n"
            "Load an adapter with is_trainable=True, or use a LoraConfig of linear layers."
        )
    return base, found


def _adapted(name: str, module: nn.Module, adapter: str) -> AdaptedLayer | None:
    if not isinstance(module, LoraLayer) or adapter not in module.lora_A:
        return None  # an embedding's, for example, which is refused where it is trained
    a, b = module.lora_A[adapter], module.lora_B[adapter]
    if not (isinstance(a, nn.Linear) and isinstance(b, nn.Linear)):
        return None
    if module.merged or adapter in module.lora_variant:
        what = "merged into its weights" if module.merged else "a variant of LoRA (such as DoRA)"
        raise ModelError(
            f"{name}: its adapter is {what}, so its factors' gradients are not those of LoRA.\n"
            "Train with plain LoRA, unmerged: use_dora=False, model.unmerge_adapter()."
        )
    scaling, places = cast(float, module.scaling[adapter]), (f"{name}.lora_A.{adapter}", f"{name}.lora_B.{adapter}")
    # As `base`, the layer itself runs: its own code, also where weights are quantised or activations autocast.
    return AdaptedLayer(module, module, lambda: True, places[0], a, places[1], b, scaling)


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Generator[None]:
    """Within the context the model is in eval mode and no parameter requires grad; afterwards all is as it was.

    So are the states of the random generators of Python, numpy and torch (CPU and `device`).
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(weight, weight.requires_grad) for weight in model.parameters()]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        model.eval()
        for weight, _ in flags:
            weight.requires_grad_(False)
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            yield
    finally:
        for weight, trained in flags:
            weight.requires_grad_(trained)
        for module, training in modes:
            module.training = training
        random.setstate(python)
        np.random.set_state(numpy)
