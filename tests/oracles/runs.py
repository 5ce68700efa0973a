"""A model directory small enough to run the real program in seconds, and pools to run it on."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from spice_select import compute_gradients

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = ["sum", "of", "two", "red", "blue", "tree", "house", "walks", "runs", "slowly", "because", "the", "a", "1", "2"]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and ChatML's two."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|im_start|>", "<|im_end|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=CHATML
    )


def save_tiny_model(directory: Path) -> Path:
    """A random two-layer Llama with `byte_tokenizer`, as save_pretrained writes it."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def chat_rows(count: int, seed: int = 0) -> list[dict]:
    """Rows of one question and one answer of varied length."""
    generator = random.Random(seed)

    def words(low: int, high: int) -> str:
        return " ".join(generator.choice(WORDS) for _ in range(generator.randint(low, high)))

    return [
        {
            "id": f"row-{i}",
            "source": "even" if i % 2 == 0 else "odd",
            "extra": {"kept": [i, None, 1.5]},
            "messages": [{"role": "user", "content": words(1, 6)}, {"role": "assistant", "content": words(1, 12)}],
        }
        for i in range(count)
    ]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def stores_with_targets(folder: Path, place: Path, **options: Any) -> Path:
    """Stores at `place` of `folder`'s pool.jsonl, named store, and of mine.jsonl and seen.jsonl by the same proxy."""
    compute_gradients(folder / "pool.jsonl", output=place / "store", **options)
    for name in ("mine", "seen"):
        compute_gradients(folder / f"{name}.jsonl", output=place / name, proxy_of=place / "store", **options)
    return place
