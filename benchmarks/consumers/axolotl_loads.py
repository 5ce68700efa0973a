"""Load a run with Axolotl's own code, up to the batch its trainer would see, and check every label.

Run in Axolotl's environment (README.md): python axolotl_loads.py RUN_DIR MODEL_DIR
"""

import os
import sys
import tempfile

from axolotl.cli.args import TrainerCliArgs
from axolotl.cli.config import load_cfg
from axolotl.common.datasets import load_datasets
from axolotl.loaders import load_tokenizer
from axolotl.utils.collators import DataCollatorForSeq2Seq
from checks import Encoded, arguments, check, load_rows


def main() -> int:
    given = arguments("Check what Axolotl makes of a run.")
    os.chdir(given.run)  # as its README says; the configuration names its files relative to it
    with tempfile.TemporaryDirectory() as scratch:
        cfg = load_cfg(
            "axolotl.yaml",
            base_model=str(given.model),
            dataset_prepared_path=scratch,
            output_dir=scratch,
            shuffle_merged_datasets=False,  # keeps the order, so that rows can be compared
        )
        dataset = load_datasets(cfg=cfg, cli_args=TrainerCliArgs()).train_dataset
        tokenizer = load_tokenizer(cfg)
        collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
        keys = ("input_ids", "labels", "attention_mask")
        encoded: list[Encoded] = []
        for start in range(0, len(dataset), 4):
            rows = [dataset[i] for i in range(start, min(start + 4, len(dataset)))]
            batch = collator([{key: row[key] for key in keys} for row in rows])
            for ids, labels, mask in zip(*(batch[key] for key in keys), strict=True):
                assert (labels[mask == 0] == -100).all(), "padding is labelled"
                encoded.append(Encoded(ids[mask == 1].tolist(), labels[mask == 1].tolist()))
    return check(load_rows(given.run), encoded, given)


if __name__ == "__main__":
    sys.exit(main())
