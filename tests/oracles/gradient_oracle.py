"""Obviously correct, but slow: one example at a time, full logits, autograd's gradient of the mean response loss."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from spice_select.gradients.gram import HeldGradients, pool_gram
from spice_select.pool.batches import batches_within
from spice_select.proxy.lora import Proxy, attach_lora
from spice_select.proxy.update import trainable

VOCABULARY = 61


@dataclass(frozen=True)
class TokenExample:
    """Just what a batch needs of an example."""

    input_ids: np.ndarray
    trained: np.ndarray

    @property
    def trained_tokens(self) -> int:
        return int(self.trained.sum())


def random_examples(count: int, seed: int, longest: int = 23) -> list[TokenExample]:
    """Examples of 2 to `longest` tokens with one or more trained spans; the first token is never trained."""
    generator = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        length = int(generator.integers(2, longest + 1))
        trained = generator.random(length) < 0.5
        trained[0], trained[-1] = False, True
        examples.append(TokenExample(generator.integers(1, VOCABULARY, length, dtype=np.int32), trained))
    return examples


def oracle_gradients(proxy: Proxy, examples: list[TokenExample]) -> torch.Tensor:
    """[m, P] float64: each example alone in the model, its loss written out from the definition."""
    rows = []
    weights = [layer.weight for layer in proxy.factors.values()]
    with trainable(proxy):
        for example in examples:
            ids = torch.tensor(example.input_ids.astype(np.int64), device=proxy.device)[None]
            logits = proxy.model(input_ids=ids, use_cache=False).logits[0]
            targets = [t for t in range(1, ids.shape[1]) if example.trained[t]]
            loss = sum(-logits[t - 1].float().log_softmax(-1)[ids[0, t]] for t in targets) / len(targets)
            grads = torch.autograd.grad(loss, weights)
            rows.append(torch.cat([g.flatten() for g in grads]).double())
    return torch.stack(rows)


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A small random model of a real architecture, frozen."""
    shared = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "bos_token_id": 1,
    }
    torch.manual_seed(seed)
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**shared))
    elif family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**{k: v for k, v in shared.items() if k != "head_dim"}))
    elif family == "gemma2":
        # Soft-capped logits and a sliding window shorter than the rows.
        model = Gemma2ForCausalLM(Gemma2Config(**shared, sliding_window=5, final_logit_softcapping=3.0))
    elif family == "mistral":
        model = MistralForCausalLM(MistralConfig(**shared, sliding_window=5))
    else:
        # Conv1D instead of Linear, learned positions.
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, **sizes))
    model.eval()
    return model.requires_grad_(False)


def tiny_proxy(family: str, seed: int = 0, b_scale: float = 0.05) -> Proxy:
    """A small random model of a real architecture with adapters whose B is not zero."""
    proxy = attach_lora(tiny_model(family, seed), rank=3, alpha=6.0, seed=seed)
    for name, layer in proxy.factors.items():
        if ".lora_B." in name and b_scale:
            torch.nn.init.normal_(layer.weight, std=b_scale)
    return proxy


def mixed_proxy(family: str, dtype: torch.dtype = torch.bfloat16) -> Proxy:
    """`tiny_proxy` with its weights in `dtype` and its adapters and buffers in float32, as models are loaded."""
    proxy = tiny_proxy(family)
    factors = {id(factor.weight) for factor in proxy.factors.values()}
    for parameter in proxy.model.parameters():
        if id(parameter) not in factors:
            parameter.data = parameter.data.to(dtype)
    return proxy


def gram_of(proxy: Proxy, examples: list[TokenExample], budget: int, memory: int = 1 << 40) -> torch.Tensor:
    """Their Gram matrix, by batches of `budget` tokens and with `memory` bytes for gradients between them."""
    batches = batches_within([len(example.input_ids) for example in examples], budget)
    return pool_gram(proxy.model, proxy.layers, examples, batches, memory, HeldGradients())[0]


def gram_error(gram: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference of an entry over |g_i| |g_j|: a wrong mask, padding leak or missing module shows at once."""
    norms = expected.diagonal().sqrt()
    return float(((gram - expected) / (norms[:, None] * norms[None, :])).abs().max())


FAMILIES = ("llama", "qwen2", "gemma2", "mistral", "gpt2")
