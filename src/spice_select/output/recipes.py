"""The files beside `train.parquet` with which each trainer fine-tunes on it, and the run's README.

Contract: pure text. All files name the data by its bare file name: the commands run in the run's directory, which can
be moved. The three trainers get the default `Recipe`, as `finetune` does: LoRA on all linear layers, cosine schedule.
LLaMA-Factory and Axolotl read tokens that `make_tokens.py` labels: what they make of messages themselves differs from
the selection's masks (marks and tools in LLaMA-Factory, thinking parts in both).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import yaml

from spice_select.files.directory import CHAT_TEMPLATE, TOKENS
from spice_select.output.summary import Summary
from spice_select.output.trainers import EVAL_FILE, TRAIN_FILE
from spice_select.recipe import Recipe

_ROWS = 4  # on a device at once
_BATCH = "A step is {0} rows on one device, {1} at a time; on n devices divide gradient_accumulation_steps by n."
_LLAMAFACTORY = {
    r"Qwen/Qwen2(\.5)?(-Coder|-Math)?-[\d.]+B-Instruct": "qwen",
    r"Qwen/Qwen3-[\d.]+B(-A\d+B)?(-Thinking-2507)?": "qwen3",
    r"Qwen/Qwen3-[\d.]+B(-A\d+B)?-Instruct-2507": "qwen3_nothink",
    r"meta-llama/(Meta-)?Llama-3(\.[123])?-\d+B-Instruct": "llama3",
    r"google/gemma-2-\d+b-it": "gemma2",
    r"mistralai/Mistral-7B-Instruct-v0\.[123]": "mistral",
    r"HuggingFaceTB/SmolLM2-[\d.]+[BM]-Instruct": "smollm2",
}
"""Models on the hub -> LLaMA-Factory's own name of their chat template, as its 0.9.4 and 0.9.5 have them."""


@dataclass(frozen=True, slots=True)
class ModelToTrain:
    """The model to fine-tune: its hub name or path, and the tokens of a row that are kept.

    `chat_template` is the text of the template that stands in for its tokenizer's, if one does.
    """

    name: str
    max_length: int = 2048
    chat_template: str | None = None


def trainer_files(model: ModelToTrain, summary: Summary, held: int = 0) -> dict[str, str]:
    """Name and text of every file that goes beside `train.parquet`, and `eval.parquet` if rows are `held` out."""
    recipe = Recipe()
    values = {
        "model": model, "recipe": recipe, "summary": summary, "data": TRAIN_FILE, "tokens": TOKENS,
        "chat_template": CHAT_TEMPLATE, "held": held, "held_data": EVAL_FILE, "template": _template_name(model),
        "rows": _ROWS, "accumulation": recipe.batch_size // _ROWS, "batch": _BATCH.format(recipe.batch_size, _ROWS),
        "chosen_by": "Named here is the one that chose the rows, which may be smaller.",
    }  # fmt: skip
    names = ("README.md", "axolotl.yaml", "llamafactory.yaml", "make_tokens.py", "train_trl.py")
    files = {name: rendered(name, values) for name in names}
    return files if model.chat_template is None else {**files, CHAT_TEMPLATE: model.chat_template}


def _template_name(model: ModelToTrain) -> str | None:
    """LLaMA-Factory's name of the model's chat template, where it is known."""
    if model.chat_template is not None:
        return None
    return next((name for pattern, name in _LLAMAFACTORY.items() if re.fullmatch(pattern, model.name)), None)


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
