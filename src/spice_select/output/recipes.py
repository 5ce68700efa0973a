"""The files beside `train.parquet` with which each trainer fine-tunes on it as it is, and the run's README.

Contract: pure text. All files name the data by its bare file name, so the commands are run from the run's
directory and the directory can be moved. The three recipes are one, `Recipe` with its defaults: LoRA on all linear
layers with a cosine schedule, as `finetune` trains too.
"""

# pyarrow ships no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import yaml

from spice_select.output.trainers import TRAIN_FILE, llamafactory_turns
from spice_select.recipe import Recipe

DATASET_NAME = "spice"

_RECIPE = Recipe()
_ROWS = 4  # on a device at once
_ACCUMULATION = _RECIPE.batch_size // _ROWS


@dataclass(frozen=True, slots=True)
class Target:
    """The model to fine-tune.

    Attributes:
        model: hub name or path.
        max_length: tokens of a row that are kept.
        end_of_turn: the token that ends its assistant turns, if that is not its tokenizer's eos token.

    """

    model: str
    max_length: int = 2048
    end_of_turn: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What the README says about the run.

    Attributes:
        selected: rows chosen.
        pool: rows they were chosen from.
        sources: name of each data set -> rows chosen from it.

    """

    selected: int
    pool: int
    sources: Mapping[str, int]


def trainer_files(target: Target, selection: Selection, table: pa.Table) -> dict[str, str]:
    """Name and text of every file that goes beside `train.parquet`; `table` is that of `training_table`."""
    return {
        "README.md": run_readme(target, selection, table),
        "axolotl.yaml": axolotl_config(target),
        "dataset_info.json": json.dumps(dataset_info(table), indent=2) + "\n",
        "llamafactory.yaml": llamafactory_config(target),
        "train_trl.py": trl_script(target),
    }


def dataset_info(table: pa.Table) -> dict[str, Any]:
    """Describe `train.parquet` to LLaMA-Factory.

    Its reader is `sharegpt` with OpenAI's names: the `openai` reader adds a sentence to every system message.
    """
    names = table.column_names
    columns = {"messages": "llamafactory" if "llamafactory" in names else "messages"}
    return {
        DATASET_NAME: {
            "file_name": TRAIN_FILE,
            "formatting": "sharegpt",
            "columns": columns | ({"tools": "tools"} if "tools" in names else {}),
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "observation_tag": "tool",
                "function_tag": "function_call",
                "system_tag": "system",
            },
        }
    }


def llamafactory_config(target: Target) -> str:
    """Write LLaMA-Factory's YAML. Without `template` it takes the chat template of the tokenizer."""
    return _yaml(
        "Run: llamafactory-cli train llamafactory.yaml",
        {
            "model_name_or_path": target.model,
            "stage": "sft",
            "do_train": True,
            "dataset_dir": ".",
            "dataset": DATASET_NAME,
            "cutoff_len": target.max_length,
            "finetuning_type": "lora",
            "lora_rank": _RECIPE.lora_rank,
            "lora_alpha": _whole(_RECIPE.lora_alpha),
            "lora_target": "all",
            "learning_rate": _RECIPE.learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": _RECIPE.warmup,
            "num_train_epochs": _whole(_RECIPE.epochs),
            "per_device_train_batch_size": _ROWS,
            "gradient_accumulation_steps": _ACCUMULATION,
            "bf16": True,
            "report_to": "none",
            "output_dir": "llamafactory-out",
        },
    )


def axolotl_config(target: Target) -> str:
    """Write Axolotl's YAML: loss on the assistant's turns and the token that ends each."""
    data = {
        "path": TRAIN_FILE,
        "ds_type": "parquet",
        "split": "train",
        "type": "chat_template",
        "chat_template": "tokenizer_default",
        "field_messages": "messages",
        "message_field_training": "train",
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }
    return _yaml(
        "Run: axolotl train axolotl.yaml",
        {
            "base_model": target.model,
            "datasets": [data],
            **({"eot_tokens": [target.end_of_turn]} if target.end_of_turn else {}),
            "dataset_prepared_path": "axolotl-prepared",
            "val_set_size": 0,
            "sequence_len": target.max_length,
            "excess_length_strategy": "truncate",
            "sample_packing": False,
            "adapter": "lora",
            "lora_r": _RECIPE.lora_rank,
            "lora_alpha": _whole(_RECIPE.lora_alpha),
            "lora_target_linear": True,
            "learning_rate": _RECIPE.learning_rate,
            "lr_scheduler": "cosine",
            "optimizer": "adamw_torch",
            "warmup_ratio": _RECIPE.warmup,
            "num_epochs": _whole(_RECIPE.epochs),
            "micro_batch_size": _ROWS,
            "gradient_accumulation_steps": _ACCUMULATION,
            "bf16": "auto",
            "output_dir": "axolotl-out",
        },
    )


def trl_script(target: Target) -> str:
    """Write a Python script that fine-tunes with TRL."""
    return f'''"""Fine-tune on {TRAIN_FILE} with TRL. Needs trl and peft. """

from pathlib import Path

from peft import LoraConfig
from transformers import AutoTokenizer
from transformers.utils import is_torch_bf16_gpu_available
from trl import SFTConfig, SFTTrainer

from spice_select import training_dataset

MODEL = {json.dumps(target.model)}
HERE = Path(__file__).parent

tokenizer = AutoTokenizer.from_pretrained(MODEL)
trainer = SFTTrainer(
    model=MODEL,
    processing_class=tokenizer,
    # Labelled here: the assistant's tokens and its end of turn alone, whatever the chat template.
    train_dataset=training_dataset(HERE / "{TRAIN_FILE}", tokenizer, max_length={target.max_length}),
    peft_config=LoraConfig(
        r={_RECIPE.lora_rank}, lora_alpha={_RECIPE.lora_alpha:g}, target_modules="all-linear", task_type="CAUSAL_LM"
    ),
    args=SFTConfig(
        output_dir=str(HERE / "trl-out"),
        max_length={target.max_length},
        learning_rate={_RECIPE.learning_rate},
        lr_scheduler_type="cosine",
        warmup_steps={_RECIPE.warmup},  # below 1: a share of all steps
        num_train_epochs={_RECIPE.epochs:g},
        per_device_train_batch_size={_ROWS},
        gradient_accumulation_steps={_ACCUMULATION},
        bf16=is_torch_bf16_gpu_available(),
        report_to="none",
    ),
)
trainer.train()
trainer.save_model()
'''


def run_readme(target: Target, selection: Selection, table: pa.Table) -> str:
    """Write the run's README: what the files are and how each trainer takes them."""
    share = 100 * selection.selected / selection.pool
    sources = "\n".join(f"| {name} | {count:,} |" for name, count in selection.sources.items())
    return f"""# A selection by spice-select

{selection.selected:,} of {selection.pool:,} rows ({share:.1f} %), to fine-tune `{target.model}` on.

| source | rows |
| --- | --- |
{sources}

| file | what |
| --- | --- |
| `selected.jsonl` | the chosen rows as they were in the pool, all their fields |
| `{TRAIN_FILE}` | the same rows in the same order as chat messages in one schema; the trainers read this one |
| `scores.parquet` | every row of the pool with its scores |
| `report.html` | what was chosen, why, and how good it is; open it in a browser |
| `manifest.json`, `run.yaml` | what was run on what, and the options that run it again |
| `train_trl.py`, `llamafactory.yaml`, `dataset_info.json`, `axolotl.yaml` | one LoRA recipe for three trainers |

## Train

From this directory, with the trainer of your choice; to train another model, change its name in the file.

    python train_trl.py                         # TRL; needs trl and spice-select in one environment
    llamafactory-cli train llamafactory.yaml    # LLaMA-Factory
    axolotl train axolotl.yaml                  # Axolotl

The loss is on the assistant's tokens and the token that ends each of its turns. The recipe is LoRA of rank
{_RECIPE.lora_rank} and alpha {_RECIPE.lora_alpha:g} on all linear layers, learning rate \
{_RECIPE.learning_rate:g}, cosine schedule, {_RECIPE.epochs:g} epochs, \
{_ROWS * _ACCUMULATION} rows a step
and {target.max_length:,} tokens a row; what is longer is cut off.

## What to know

- The model needs a chat template. For a base model without one use TRL (`training_dataset` brings a plain
  template) or set `chat_template` (Axolotl) and `template` (LLaMA-Factory).
- LLaMA-Factory reads the template off the tokenizer. If it cannot, or the model is a reasoning model, name
  its own in `llamafactory.yaml` (`template: qwen3`, `template: gemma3`, ...). It also trains the white space
  that the template puts after an end of turn. On hardware without bfloat16 set `bf16: false`.
- Some tokenizers (SmolLM2's, for one) pad with the end-of-turn token. These three pad labels apart from tokens, so
  the end of turn is learned all the same. A collator that builds labels by masking the pad token
  (`transformers.DataCollatorForLanguageModeling`) would drop it: give the tokenizer another pad token first.
{_axolotl_note(target)}{_llamafactory_note(target, table)}"""  # noqa: S608


def _axolotl_note(target: Target) -> str:
    if target.end_of_turn:
        return f"- Axolotl is told the token that ends a turn: `{target.end_of_turn}`, under `eot_tokens`.\n"
    return "- Axolotl takes the tokenizer's eos token as the end of a turn; list another under `eot_tokens`.\n"


def _llamafactory_note(target: Target, table: pa.Table) -> str:
    """Say how many rows LLaMA-Factory skips, and how to train them there all the same."""
    skipped = sum(not llamafactory_turns(_clean(messages)) for messages in table["messages"].to_pylist())
    if not skipped:
        return ""
    return f"""- **LLaMA-Factory skips {skipped:,} of the {table.num_rows:,} rows**: it cannot hold a chat that does not
  alternate between user and assistant, or that has assistant messages not to train on. To train on all
  rows, tokenise them first, in an environment with spice-select, and add `tokenized_path: tokenized` to
  `llamafactory.yaml`:

      from spice_select import training_dataset
      from transformers import AutoTokenizer

      tokenizer = AutoTokenizer.from_pretrained({json.dumps(target.model)})
      training_dataset(HERE / "{TRAIN_FILE}", tokenizer, max_length={target.max_length}).save_to_disk("tokenized")
"""


def _clean(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages without the nulls that a table's columns fill in."""
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def _whole(number: float) -> float:
    """3.0 as 3, because some trainers want whole numbers without a point."""
    return int(number) if number == int(number) else number


def _yaml(comment: str, config: Mapping[str, Any]) -> str:
    return f"# {comment}\n" + yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
