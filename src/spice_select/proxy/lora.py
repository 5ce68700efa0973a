"""LoRA on the proxy: attached by PEFT to linear layers, seeded, without dropout."""

import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from transformers.pytorch_utils import Conv1D

from spice_select.errors import ModelError
from spice_select.gradients.capture import AdaptedLayer, factors_of
from spice_select.pool.batches import PASS_OVERHEAD, batches_within

if TYPE_CHECKING:
    from transformers import PreTrainedModel


TOKENS_OF_A_PASS = 2048
"""Padded tokens of a pass by default."""

OVERHEAD_ON_GPU = 4096
"""As `PASS_OVERHEAD`: a small pass waits for its kernels' launches. An estimate, not measured."""

ADAPTER = "default"
"""PEFT's name for the one adapter."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy language model: frozen base, and its layers with LoRA by name; none where only states are wanted."""

    model: "PreTrainedModel"
    layers: dict[str, AdaptedLayer]
    batch_tokens: int = TOKENS_OF_A_PASS

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Rows of `lengths` tokens cut into batches of at most `batch_tokens` padded tokens."""
        overhead = OVERHEAD_ON_GPU if self.device.type == "cuda" else PASS_OVERHEAD
        return batches_within(lengths, self.batch_tokens, overhead)

    @property
    def factors(self) -> dict[str, nn.Linear]:
        """A [r, in] and B [out, r] of each layer, by name."""
        return factors_of(self.layers)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    @property
    def parameters(self) -> int:
        """P, the length of a per-sample gradient."""
        return sum(layer.weight.numel() for layer in self.factors.values())


def attach_lora(model: "PreTrainedModel", rank: int, alpha: float, seed: int, last_blocks: int | None = None) -> Proxy:
    """Add adapters of `rank` r, scaled by `alpha` / r, to linear layers of the frozen `model`, which then uses them.

    A is random from `seed`, B zero. With `last_blocks` only the linear layers of so many last transformer blocks are
    adapted, else all but the output layer; nothing below the lowest is ever differentiated. Raises `ModelError` if
    there is no linear layer, or not so many blocks.
    """
    targets = "all-linear" if last_blocks is None else _linear_layers_of(model, last_blocks)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0)  # pyright: ignore[reportArgumentType]
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
    layers = {name: _adapted(name, module) for name, module in modules if isinstance(module, LoraLinear)}
    proxy = Proxy(model, layers)
    for factor in proxy.factors.values():
        factor.weight.requires_grad_(False)
    return proxy


def _linear_layers_of(model: "PreTrainedModel", last_blocks: int) -> list[str]:
    count = cast(int, model.config.get_text_config().num_hidden_layers)
    modules = list(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))
    stacks = [(name, module) for name, module in modules if isinstance(module, nn.ModuleList) and len(module) == count]
    if not stacks:
        raise ModelError(f"the blocks of {type(model).__name__} cannot be found; use --layers all.")
    if last_blocks > count:
        raise ModelError(f"--layers last:{last_blocks}: the model has {count} blocks; ask for at most last:{count}.")
    stack = stacks[0][0]
    kept = tuple(f"{stack}.{index}." for index in range(count - last_blocks, count))
    return [name for name, module in modules if isinstance(module, (nn.Linear, Conv1D)) and name.startswith(kept)]


def _adapted(name: str, module: LoraLinear) -> AdaptedLayer:
    a, b = module.lora_A[ADAPTER], module.lora_B[ADAPTER]
    assert isinstance(a, nn.Linear)
    assert isinstance(b, nn.Linear)
    scaling = cast(float, module.scaling[ADAPTER])
    base = module.get_base_layer()
    return AdaptedLayer(
        module, base, lambda: module.merged, f"{name}.lora_A.{ADAPTER}", a, f"{name}.lora_B.{ADAPTER}", b, scaling
    )


def merge(proxy: Proxy) -> None:
    """Add each layer's B A to its weights for good: from now on a layer is one product, and cannot be trained.

    bfloat16 weights are left alone: B A is smaller than their spacing, and would be rounded away.
    """
    for layer in _mergeable(proxy):
        if not layer.merged:
            layer.merge()


@contextmanager
def merged(proxy: Proxy) -> Generator[None]:
    """Within the context each layer is one product, as after `merge`; afterwards the weights are restored.

    They are copied back from the CPU's memory: subtracting B A again would leave rounding errors.
    """
    layers = _mergeable(proxy)
    weights = [cast(nn.Parameter, layer.get_base_layer().weight) for layer in layers]
    before = [weight.detach().to("cpu", copy=True) for weight in weights]
    try:
        merge(proxy)
        yield
    finally:
        for layer, weight, values in zip(layers, weights, before, strict=True):
            if layer.merged:
                layer.unmerge()
            weight.data.copy_(values)


def _mergeable(proxy: Proxy) -> list[LoraLinear]:
    if proxy.model.dtype not in (torch.float32, torch.float64):
        return []
    return [cast(LoraLinear, layer.module) for layer in proxy.layers.values()]
