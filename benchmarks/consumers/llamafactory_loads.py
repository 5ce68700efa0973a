"""Load a run with LLaMA-Factory's own code, up to the batch its trainer would see, and check every label.

Run in LLaMA-Factory's environment (README.md): python llamafactory_loads.py RUN_DIR MODEL_DIR
"""

import os
import sys

import torch
import yaml
from checks import Encoded, arguments, check, load_rows
from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer


def main() -> int:
    given = arguments("Check what LLaMA-Factory makes of a run.")
    os.chdir(given.run)  # as its README says; the configuration names its files relative to it
    config = yaml.safe_load((given.run / "llamafactory.yaml").read_text())
    config |= {"model_name_or_path": str(given.model), "overwrite_cache": True}
    config |= {"bf16": torch.cuda.is_available(), "use_cpu": not torch.cuda.is_available()}
    model_args, data_args, training_args, _, _ = get_train_args(config)
    tokenizer_module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(tokenizer_module["tokenizer"], data_args)
    module = get_dataset(template, model_args, data_args, training_args, stage="sft", **tokenizer_module)
    collator = SFTDataCollatorWith4DAttentionMask(template=template, label_pad_token_id=-100, **tokenizer_module)
    encoded: list[Encoded] = []
    dataset = module["train_dataset"]
    for start in range(0, len(dataset), 4):
        batch = collator([dataset[i] for i in range(start, min(start + 4, len(dataset)))])
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            assert (labels[mask == 0] == -100).all(), "padding is labelled"
            encoded.append(Encoded(ids[mask == 1].tolist(), labels[mask == 1].tolist()))
    return check(load_rows(given.run), encoded, given)


if __name__ == "__main__":
    sys.exit(main())
