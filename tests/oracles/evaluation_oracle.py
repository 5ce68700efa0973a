"""Obviously correct, but slow: held-out loss one row at a time in float64, the bootstrap as two loops; and adapters."""

import json
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from oracles.pool_families import FAMILIES
from oracles.pool_masks import assistant_characters, expected_tokens


def oracle_losses(model, tokenizer, rows: list[dict]) -> list[float]:
    """Mean NLL of each ChatML row's assistant tokens: own rendering, own mask, full logits, float64."""
    losses = []
    model = model.double()
    for row in rows:
        text, spans = assistant_characters(FAMILIES["chatml"], tokenizer, row["messages"])
        ids, trained = expected_tokens(tokenizer, text, spans)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        terms = [-float(logits[t - 1].log_softmax(-1)[ids[t]]) for t in range(1, len(ids)) if trained[t]]
        losses.append(sum(terms) / len(terms))
    model.float()
    return losses


def oracle_means(values: list[float], resamples: int, seed: list[int]) -> list[float]:
    """Bootstrap means of sorted values, one row drawn after another."""
    generator = np.random.default_rng(seed)
    ordered = sorted(values)
    means = []
    for _ in range(resamples):
        drawn = [ordered[int(generator.integers(0, len(ordered)))] for _ in ordered]
        means.append(sum(drawn) / len(drawn))
    return means


def oracle_interval(means: list[float]) -> tuple[float, float]:
    """2.5 % and 97.5 % points, linear between neighbours of the sorted means."""
    ordered = sorted(means)

    def point(share: float) -> float:
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    return point(0.025), point(0.975)


def save_adapter(directory: Path, base: str, *, seed: int = 0, tokenizer: bool = False, ours: bool = False) -> Path:
    """A LoRA adapter with random A and B, as PEFT saves it; `ours` adds the record of `spice-select finetune`."""
    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=3, lora_alpha=12.0, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(directory)
    if tokenizer:
        AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    if ours:
        rewrite(directory / "adapter_config.json", base_model_name_or_path="somewhere/else")
        record = {"format": "spice-select-finetune", "version": 1, "model": base, "revision": None}
        (directory / "finetune.json").write_text(json.dumps(record))
    return directory


def unmerged(directory: Path, base: str) -> PeftModel:
    """The adapter beside its base, as PEFT runs it."""
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), directory).eval()


def rewrite(path: Path, **fields) -> None:
    """Change fields of a JSON object."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
