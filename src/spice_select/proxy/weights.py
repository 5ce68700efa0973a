"""Which files a model's weights may be read from: safetensors, which hold arrays and nothing else.

A pickle (`pytorch_model.bin`) is a program that builds the weights; reading one means running it. torch allows a pickle
a short list of calls, and holes in such lists were found before, so none is read here at all.
"""

import json
from pathlib import Path
from typing import Any, cast

from spice_select.errors import ModelError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

CONVERT = (
    "Convert it where you trust it: AutoModelForCausalLM.from_pretrained(NAME).save_pretrained(DIR) writes safetensors."
)
"""How a user gets from a pickle to safetensors."""


def refuse_pickles(directory: Path) -> None:
    """Raise `ModelError` where a model's local directory holds, or names, other weights than its own safetensors."""
    named = read_object(directory / "config.json").get("transformers_weights")
    if named is not None and not (isinstance(named, str) and _is_plain(named.removesuffix(".index.json"))):
        raise ModelError(
            f"{directory / 'config.json'}: transformers_weights names no safetensors file of this directory."
        )
    for index in directory.glob("*.safetensors.index.json"):
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict) or not all(map(_is_plain, cast("dict[str, object]", shards).values())):
            raise ModelError(f"{index}: names other weights than safetensors files of this directory.\n{CONVERT}")
    refuse_pickled_adapter(directory)
    if not any(directory.glob("*.safetensors*")):
        pickles = sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLED)
        if pickles:
            raise ModelError(
                f"{directory}: holds its weights as pickles ({pickles[0]}), which can run any code when read.\n"
                f"{CONVERT}"
            )


def refuse_pickled_adapter(directory: Path) -> None:
    """Raise `ModelError` where a directory's adapter is a pickle."""
    if (directory / PICKLED_ADAPTER).is_file() and not (directory / ADAPTER).is_file():
        raise ModelError(
            f"{directory}: holds its adapter as a pickle ({PICKLED_ADAPTER}), which can run any code when it is read.\n"
            "Load it with PEFT where you trust it and save it again: save_pretrained(DIR) writes safetensors."
        )


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no such file. Raises `ModelError` if it is not a JSON object."""
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({str(error)[:200]}); save the model again.") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: is not a JSON object; save the model again.")
    return cast("dict[str, Any]", content)


def _is_plain(name: object) -> bool:
    """Whether a file name stays in its directory and ends as safetensors do."""
    return isinstance(name, str) and name.endswith(".safetensors") and not set(name) & set("/\\\0")
