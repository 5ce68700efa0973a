"""Small trainings with `SelectingSampler`, of plain Trainers and of TRL's; as a program, one by several processes."""

import json
import os
import sys
from pathlib import Path

import datasets
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from oracles.runs import byte_tokenizer, chat_rows
from spice_select.trainers import SelectingSampler

ROWS = 37
CHOICE = {"candidates": 8, "picks": 3, "update_every": 2}


def lora_model(directory: str, **options):
    """The tiny model with LoRA whose B is not zero, the same each time."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(directory)
    model = get_peft_model(model, LoraConfig(**{"r": 2, "lora_alpha": 4, "target_modules": "all-linear", **options}))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model


def token_rows(count: int = ROWS, seed: int = 0) -> datasets.Dataset:
    """Rows of tokens, the answer's labelled, with a column that no model takes."""
    tokenizer, rows = byte_tokenizer(), []
    for row in chat_rows(count, seed):
        prompt, answer = (tokenizer.encode(message["content"]) for message in row["messages"])
        labels = [-100] * len(prompt) + answer
        rows.append({"input_ids": prompt + answer, "labels": labels, "source": row["source"]})
    return datasets.Dataset.from_list(rows)


def prompt_rows(count: int = ROWS, seed: int = 0) -> datasets.Dataset:
    """The same rows as TRL takes them."""
    rows = [row["messages"] for row in chat_rows(count, seed)]
    return datasets.Dataset.from_list([{"prompt": [question], "completion": [answer]} for question, answer in rows])


def arguments(output: Path, **options) -> dict:
    """Arguments of either trainer: three rows a batch, two batches a step."""
    return {
        "output_dir": str(output), "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "use_cpu": True,
        "num_train_epochs": 1, "learning_rate": 1e-2, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
        "logging_strategy": "no", "seed": 5, **options,
    }  # fmt: skip


def plain_trainer(model, output: Path, dataset=None, **options) -> Trainer:
    return Trainer(
        model=model,
        args=TrainingArguments(**arguments(output, **options)),
        train_dataset=dataset or token_rows(),
        data_collator=DataCollatorForSeq2Seq(byte_tokenizer()),
        processing_class=byte_tokenizer(),
    )


def trl_trainer(model, output: Path, dataset=None, **options) -> Trainer:
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=model,
        args=SFTConfig(**arguments(output, **options), max_length=None),
        train_dataset=dataset or prompt_rows(),
        processing_class=byte_tokenizer(),
    )


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def same_weights(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def main(model: str, place: Path, share: int) -> None:
    """Two epochs with `share` rows a batch of each process; the first process writes what came of it."""
    options = {"per_device_train_batch_size": share, "num_train_epochs": 2, "ddp_find_unused_parameters": False}
    trainer = plain_trainer(lora_model(model), place / "trainer", **options)
    sampler = SelectingSampler(trainer, output=place / "chosen", rows=16, **CHOICE)
    trainer.train()
    adapters = {name: weight.tolist() for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    if os.environ.get("RANK", "0") == "0":
        (place / "result.json").write_text(json.dumps({"chosen": sampler.chosen, "adapters": adapters}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
