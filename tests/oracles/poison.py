"""Models whose losses or gradients are not finite for some rows: real weights, changed in one place."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

POISON = "#"
"""A row that holds this letter is bad to a poisoned model."""


def save_poisoned_model(tiny_model: str, directory: Path, value: float = float("inf")) -> str:
    """The tiny model with `value` in the embedding of `POISON`; infinite or NaN makes every loss after it NaN."""
    model, tokenizer = _loaded(tiny_model)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(POISON)] = value
    return _saved(model, tokenizer, directory)


def save_steep_model(tiny_model: str, directory: Path, factor: float) -> str:
    """The tiny model with logits times `factor`: large ones saturate the softmax, and gradients grow as the factor."""
    model, tokenizer = _loaded(tiny_model)
    with torch.no_grad():
        model.get_output_embeddings().weight *= factor
    return _saved(model, tokenizer, directory)


def poisoned(rows: list[dict], places: list[int]) -> list[dict]:
    """`rows` with `POISON` in the question of those at `places`."""
    return [
        {
            **row,
            "messages": [{"role": "user", "content": f"{POISON} {row['messages'][0]['content']}"}, row["messages"][1]],
        }
        if place in places
        else row
        for place, row in enumerate(rows)
    ]


def _loaded(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), AutoTokenizer.from_pretrained(
        tiny_model
    )


def _saved(model, tokenizer, directory: Path) -> str:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)
