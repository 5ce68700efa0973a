"""The files beside `train.parquet` with which each trainer fine-tunes on it unchanged, and the run's README.

Contract: pure text. All files name the data by its bare file name: the commands run in the run's directory, which can
be moved. The three trainers get the default `Recipe`, as `finetune` does: LoRA on all linear layers, cosine schedule.
"""

# pyarrow ships no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import pyarrow as pa
import yaml

from spice_select.files.directory import CHAT_TEMPLATE
from spice_select.output.summary import Summary
from spice_select.output.trainers import LLAMAFACTORY, TRAIN_FILE, llamafactory_turns
from spice_select.pool.fields import TEMPLATE_OPTIONS
from spice_select.recipe import Recipe

DATASET_NAME = "spice"

_ROWS = 4  # on a device at once


@dataclass(frozen=True, slots=True)
class Target:
    """The model to fine-tune: its hub name or path, and the tokens of a row that are kept.

    `end_of_turn` is the token that ends its assistant turns, if that is not its tokenizer's eos token; `chat_template`
    the text of the template that stands in for its tokenizer's, if one does.
    """

    model: str
    max_length: int = 2048
    end_of_turn: str | None = None
    chat_template: str | None = None


def trainer_files(target: Target, summary: Summary, table: pa.Table) -> dict[str, str]:
    """Name and text of every file that goes beside `train.parquet`; `table` is that of `training_table`."""
    recipe, names_of = Recipe(), table.column_names
    values = {
        "target": target, "recipe": recipe, "summary": summary, "data": TRAIN_FILE, "dataset": DATASET_NAME,
        "chat_template": CHAT_TEMPLATE,
        "rows": _ROWS, "accumulation": recipe.batch_size // _ROWS,
        "skipped": sum(not turns for turns in _llamafactory(table)),
        "own_options": table.num_rows - table[TEMPLATE_OPTIONS].null_count if TEMPLATE_OPTIONS in names_of else 0,
    }  # fmt: skip
    # S701: the files are plain text, not HTML.
    templates = jinja2.Environment(  # noqa: S701
        loader=jinja2.PackageLoader("spice_select.output"), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    templates.filters |= {"json": json.dumps, "yaml": _yaml}
    names = ("README.md", "axolotl.yaml", "llamafactory.yaml", "train_trl.py")
    files = {name: templates.get_template(f"{name}.jinja").render(values) for name in names}
    if target.chat_template is not None:
        files[CHAT_TEMPLATE] = target.chat_template
    return {**files, "dataset_info.json": json.dumps(dataset_info(table), indent=2) + "\n"}


def _llamafactory(table: pa.Table) -> list[list[dict[str, str]]]:
    """Every row as LLaMA-Factory reads it, empty where it skips the row."""
    if LLAMAFACTORY in table.column_names:
        return table[LLAMAFACTORY].to_pylist()
    chats = (
        [{key: value for key, value in one.items() if value is not None} for one in messages]
        for messages in table["messages"].to_pylist()
    )
    return [llamafactory_turns(messages) for messages in chats]


def dataset_info(table: pa.Table) -> dict[str, Any]:
    """Describe `train.parquet` to LLaMA-Factory.

    Its reader is `sharegpt` with OpenAI's names: the `openai` reader adds a sentence to every system message.
    """
    names = table.column_names
    columns = {"messages": LLAMAFACTORY if LLAMAFACTORY in names else "messages"}
    tags = {"role": "role", "content": "content", "user": "user", "assistant": "assistant", "observation": "tool",
            "function": "function_call", "system": "system"}  # fmt: skip
    return {
        DATASET_NAME: {
            "file_name": TRAIN_FILE,
            "formatting": "sharegpt",
            "columns": columns | ({"tools": "tools"} if "tools" in names else {}),
            "tags": {f"{name}_tag": value for name, value in tags.items()},
        }
    }


def _yaml(entry: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(entry), allow_unicode=True).removesuffix("\n")
