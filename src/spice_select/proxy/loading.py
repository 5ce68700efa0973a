"""From a model's name to its tokenizer and weights, with errors that say what is missing."""

import hashlib
import io
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from huggingface_hub import hf_hub_download  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig
from transformers.utils import logging as transformers_logging
from transformers.utils import peft_utils

from spice_select.config import RunConfig
from spice_select.distributed.launch import local_rank, process_count
from spice_select.errors import ModelError
from spice_select.files.records import file_digest
from spice_select.option_values import EMBEDDED_MODEL
from spice_select.proxy.chat_template import read_chat_template
from spice_select.proxy.embedded import GGUF_NAME, GGUF_SHA256, HUB_NAME, INSTALL, converted_model, embedded_model_file
from spice_select.proxy.padding import refuse_padding_dependent
from spice_select.proxy.weights import CONVERT, refuse_pickles

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"

_PINNED = (".json", ".safetensors", ".bin", ".gguf", ".jinja", ".txt", ".model", ".py")

LOADING_ERRORS = (
    OSError, ValueError, ImportError, KeyError, RuntimeError, AttributeError, TypeError,
    SafetensorError, StrictDataclassError,
)  # fmt: skip
"""What transformers raises on a damaged or incomplete model."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from: arguments for transformers' `from_pretrained`."""

    name: str
    location: str
    arguments: dict[str, Any]
    chat_template: str | None = None  # in place of the tokenizer's own


def model_source(config: RunConfig, note: Callable[[str], None] = lambda _: None) -> ModelSource:
    """Resolve `config.model` to the embedded model, a local directory, or a hub id; `note` receives what takes long.

    Where the embedded model is not installed, it is its hub id. Raises `ModelError` if a path is no model's directory,
    or the embedded model is damaged, `ConfigError` if the chat template cannot be found.
    """
    template = None if config.chat_template is None else read_chat_template(config.chat_template)
    return replace(_own_source(config, note), chat_template=template)


def _own_source(config: RunConfig, note: Callable[[str], None]) -> ModelSource:
    if config.model == EMBEDDED_MODEL:
        if (file := embedded_model_file()) is not None:
            return _embedded_source(file, note)
        note(f"the embedded model is not installed: taking {HUB_NAME} from the hub")
        config = config.model_copy(update={"model": HUB_NAME})
    path = Path(config.model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            adapter = (path / "adapter_config.json").is_file()
            what = "is an adapter; name its base model" if adapter else "no config.json inside"
            raise ModelError(f"{path}: {what}; name a whole model's directory, written by save_pretrained.")
        return ModelSource(config.model, str(path), {"trust_remote_code": config.trust_remote_code})
    if path.is_file() or config.model.startswith((".", "/", "~")) or config.model.count("/") > 1:
        raise ModelError(f"{config.model}: no such model directory; name a directory or a hub id 'name/model'.")
    arguments = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    return ModelSource(config.model, config.model, arguments)


def _embedded_source(path: Path, note: Callable[[str], None]) -> ModelSource:
    """The embedded model's converted copy, or where there can be none its GGUF file at `path`."""
    gguf = ModelSource(EMBEDDED_MODEL, str(path.parent), {"gguf_file": path.name})

    def convert(folder: Path) -> None:
        note("converting the embedded model, once; later commands load the copy")
        model, tokenizer = load_model(gguf, "float32", torch.device("cpu")), load_tokenizer(gguf)
        with quiet():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    copy = converted_model(convert)
    return gguf if copy is None else ModelSource(EMBEDDED_MODEL, str(copy), {})


def load_tokenizer(source: ModelSource) -> "PreTrainedTokenizerBase":
    """The model's tokenizer, with the source's chat template. Raises `ModelError` if it cannot be loaded."""
    tokenizer: PreTrainedTokenizerBase = _load(
        source, "tokenizer", cast(Any, AutoTokenizer).from_pretrained, source.arguments
    )
    if source.chat_template is not None:
        tokenizer.chat_template = source.chat_template
    return tokenizer


def resolved_dtype(dtype: str, device: torch.device) -> Literal["float32", "bfloat16"]:
    """`auto` is bfloat16 on a GPU that supports it, and float32 elsewhere, where batches do not change picks."""
    if dtype == "auto":
        return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported(False) else "float32"
    return "bfloat16" if dtype == "bfloat16" else "float32"


def load_model(source: ModelSource, dtype: str, device: torch.device) -> "PreTrainedModel":
    """The causal language model in eval mode (dropout off) with frozen weights, on `device`.

    Raises `ModelError` if it cannot be loaded, is not causal or no language model, or has no weights but pickles.
    """
    if Path(source.location).is_dir():
        if source.name != EMBEDDED_MODEL:
            refuse_pickles(Path(source.location))
    else:
        _refuse_hub_adapter(source)
    arguments = source.arguments | {"dtype": getattr(torch, resolved_dtype(dtype, device)), "use_safetensors": True}
    quantised = _is_quantised(source)
    if quantised:  # such a model may refuse to be moved
        arguments["device_map"] = {"": device}
    with _no_conversion():
        model: PreTrainedModel = _load(source, "model", cast(Any, AutoModelForCausalLM).from_pretrained, arguments)
    _unmark_gguf(model)
    if not quantised:
        model.to(device)  # pyright: ignore[reportArgumentType]
    model.eval()
    refuse_padding_dependent(model, source.name)
    return model.requires_grad_(False)


def _refuse_hub_adapter(source: ModelSource) -> None:
    """Keep transformers from putting an adapter of the repository, which may be a pickle, on whatever base it names."""
    find = cast(Callable[..., str | None], peft_utils.find_adapter_config_file)  # pyright: ignore[reportUnknownMemberType]
    if _load(source, "configuration", find, {"revision": source.arguments["revision"]}) is not None:
        raise ModelError(
            f"'{source.name}' holds an adapter (adapter_config.json), and --model takes a whole model.\n"
            "Name its base, or merge it and save the model: merge_and_unload().save_pretrained(DIR)."
        )


def _is_quantised(source: ModelSource) -> bool:
    """Whether the model's own files hold quantised weights."""
    if source.name == EMBEDDED_MODEL:
        return False  # GGUF, which loading dequantises
    arguments = {key: source.arguments[key] for key in ("revision",) if key in source.arguments}
    read = cast(Callable[..., tuple[dict[str, Any], object]], PretrainedConfig.get_config_dict)  # pyright: ignore[reportUnknownMemberType]
    return "quantization_config" in _load(source, "configuration", read, arguments)[0]


def _unmark_gguf(model: "PreTrainedModel") -> None:
    """Remove the mark of a GGUF file: loading has dequantised its weights, but trainers would refuse the model."""
    quantizer = cast(Any, getattr(model, "hf_quantizer", None))  # older transformers leave no mark
    if quantizer is not None and quantizer.quantization_config.quant_method == "gguf":
        quantizer.remove_quantization_config(model)


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one, otherwise the CPU; processes of one launch take a GPU each.

    Raises `ModelError` if the named device is not on this machine.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        if process_count() == 1:
            return torch.device("cuda")
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"device '{name}' cannot be used here ({reason}); try --device auto.") from None
    return device


def model_fingerprint(source: ModelSource) -> str:
    """What identifies the weights: the embedded file's sha256, the hub commit, or a sha256 over a directory's files."""
    if source.name == EMBEDDED_MODEL:
        return f"sha256:{GGUF_SHA256}:{GGUF_NAME}"
    directory = Path(source.location).expanduser()
    if not directory.is_dir():
        arguments = {"filename": "config.json", "revision": source.arguments["revision"]}
        config: str = _load(source, "configuration", cast(Callable[..., str], hf_hub_download), arguments)
        return f"commit:{Path(config).parent.name}"  # the folder of its files in the hub's cache
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.iterdir() if path.suffix in _PINNED):
        digest.update(path.name.encode())
        digest.update(bytes.fromhex(file_digest(path)))
    return f"sha256:{digest.hexdigest()}"


def _load(source: ModelSource, what: str, loader: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        with quiet():
            return loader(source.location, **arguments)
    except LOADING_ERRORS as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "cannot be loaded with `safetensors`" in reason:
            raise ModelError(
                f"'{source.name}' has no weights as safetensors, and pickles are not read.\n{CONVERT}"
            ) from error
        if "trust_remote_code" in str(error) and not source.arguments.get("trust_remote_code"):
            raise ModelError(
                f"the {what} of '{source.name}' needs Python code that comes with it, which was not run.\n"
                "Read that code; if you trust it, give --trust-remote-code."
            ) from error
        raise ModelError(
            f"the {what} of '{source.name}' cannot be loaded: {reason[:300]}\n"
            f"Offline, name a local directory, or install the embedded proxy, --model's default: {INSTALL}"
        ) from error


@contextmanager
def _no_conversion() -> Generator[None]:
    """Within the context transformers does not ask the hub to convert a repository of pickles."""
    before = os.environ.get(_CONVERSION)
    os.environ[_CONVERSION] = "1"
    try:
        yield
    finally:
        del os.environ[_CONVERSION]
        if before is not None:
            os.environ[_CONVERSION] = before


@contextmanager
def quiet() -> Generator[None]:
    """Within the context transformers shows no progress bar, which would break the run's own line."""
    verbosity = transformers_logging.get_verbosity()
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        # The GGUF reader draws its bar whatever the settings; failures still arrive as exceptions.
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()
