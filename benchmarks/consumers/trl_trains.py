"""Run a run's own `train_trl.py` for two steps and check every label of the batches that TRL trains on.

Run in an environment with spice-select, trl and peft (README.md): python trl_trains.py RUN_DIR MODEL_DIR
"""

import json
import os
import re
import runpy
import sys
import tempfile
from pathlib import Path

from checks import Encoded, arguments, check, load_rows


def main() -> int:
    given = arguments("Check what TRL makes of a run.")
    os.chdir(given.run)  # as its README says; the script names its files relative to it
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "train_trl.py"
        script.write_text(shortened((given.run / "train_trl.py").read_text(), given.model, scratch))
        trainer = runpy.run_path(str(script))["trainer"]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"trained {trainer.state.global_step} steps, losses {losses}")
    encoded: list[Encoded] = []
    dataset = trainer.train_dataset
    for start in range(0, len(dataset), 4):
        batch = trainer.data_collator([dataset[i] for i in range(start, min(start + 4, len(dataset)))])
        lengths = [len(dataset[i]["input_ids"]) for i in range(start, min(start + 4, len(dataset)))]
        for ids, labels, length in zip(batch["input_ids"], batch["labels"], lengths, strict=True):
            assert (labels[length:] == -100).all(), "padding is labelled"
            encoded.append(Encoded(ids[:length].tolist(), labels[:length].tolist()))
    return check(load_rows(given.run), encoded, given)


def shortened(script: str, model: Path, output: str) -> str:
    """The script with the model at hand and two steps in place of whole epochs."""
    changes = {
        r"^HERE = .*$": "HERE = Path.cwd()",
        r"^MODEL = .*$": f"MODEL = {json.dumps(str(model))}",
        r"num_train_epochs=\d+": "max_steps=2, logging_steps=1, save_strategy='no'",
        r"output_dir=.*,$": f"output_dir={json.dumps(output)},",
    }
    for pattern, replacement in changes.items():
        script, count = re.subn(pattern, lambda _, text=replacement: text, script, flags=re.MULTILINE)
        assert count == 1, f"{pattern} stands {count} times in train_trl.py"
    return script


if __name__ == "__main__":
    sys.exit(main())
