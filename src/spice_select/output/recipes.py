"""The files beside `train.parquet` with which each trainer fine-tunes on it, and the run's README.

Contract: pure text. All files name the data by its bare file name: the commands run in the run's directory, which can
be moved. The three trainers get the default `Recipe`, as `finetune` does: LoRA on all linear layers, cosine schedule.
LLaMA-Factory and Axolotl read tokens that `make_tokens.py` labels: what they make of messages themselves differs from
the selection's masks (marks and tools in LLaMA-Factory, thinking parts in both).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import yaml

from spice_select.files.directory import CHAT_TEMPLATE, TOKENS
from spice_select.output.summary import Summary
from spice_select.output.trainers import TRAIN_FILE
from spice_select.recipe import Recipe

_ROWS = 4  # on a device at once


@dataclass(frozen=True, slots=True)
class ModelToTrain:
    """The model to fine-tune: its hub name or path, and the tokens of a row that are kept.

    `chat_template` is the text of the template that stands in for its tokenizer's, if one does.
    """

    name: str
    max_length: int = 2048
    chat_template: str | None = None


def trainer_files(model: ModelToTrain, summary: Summary) -> dict[str, str]:
    """Name and text of every file that goes beside `train.parquet`."""
    recipe = Recipe()
    values = {
        "model": model, "recipe": recipe, "summary": summary, "data": TRAIN_FILE, "tokens": TOKENS,
        "chat_template": CHAT_TEMPLATE,
        "rows": _ROWS, "accumulation": recipe.batch_size // _ROWS,
    }  # fmt: skip
    names = ("README.md", "axolotl.yaml", "llamafactory.yaml", "make_tokens.py", "train_trl.py")
    files = {name: rendered(name, values) for name in names}
    return files if model.chat_template is None else {**files, CHAT_TEMPLATE: model.chat_template}


def rendered(name: str, values: Mapping[str, Any]) -> str:
    """The text that the template of this name makes of `values`."""
    # S701: the files are plain text, not HTML.
    templates = jinja2.Environment(  # noqa: S701
        loader=jinja2.PackageLoader("spice_select.output"), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    templates.filters |= {"json": json.dumps, "yaml": _yaml, "cell": _cell}
    return templates.get_template(f"{name}.jinja").render(values)


def _cell(text: str) -> str:
    """Text as a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def _yaml(entry: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(entry), allow_unicode=True).removesuffix("\n")
