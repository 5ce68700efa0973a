"""From a checkpoint's name to a model ready for evaluation: adapters merged, weights frozen, dropout off.

A checkpoint is a directory of `spice-select finetune` (an adapter whose `finetune.json` names its base), any other PEFT
adapter directory (whose `adapter_config.json` names it), a full model's directory, a hub id, or the embedded model.
"""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoConfig

from spice_select.config import resolve
from spice_select.errors import ConfigError, ModelError
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.option_values import EMBEDDED_MODEL
from spice_select.proxy import loading
from spice_select.proxy.weights import ADAPTER, read_object, refuse_pickled_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_CONFIG, FINETUNE, TOKENIZER_CONFIG = "adapter_config.json", "finetune.json", "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A merged, frozen model in eval mode on its device, and its tokenizer."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"  # the checkpoint's own, or its base's
    name: str  # as the user gave it
    fingerprint: str  # what pins the weights; for an adapter, its own and its base's, joined by "+"


@dataclass(frozen=True, slots=True)
class FoundCheckpoint:
    """A checkpoint whose configuration and tokenizer were read, but not its weights."""

    name: str  # as the user gave it
    model: loading.ModelSource  # the model, or the base of the adapter
    adapter: tuple[loading.ModelSource, PeftConfig] | None
    tokenizer: "PreTrainedTokenizerBase"
    explanation: tuple[str, str]  # what precedes and what follows the reason where `model` cannot be loaded


def find_checkpoint(
    name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> FoundCheckpoint:
    """Find a checkpoint's files, and read its configuration and tokenizer.

    `name` is a directory, a hub id, or the embedded model's name. `revision` is that of a hub id; for an adapter, of
    its base, in place of the one it records. `trust_remote_code` lets the model repository's own Python code run.

    Raises:
        ModelError: no such directory, not a model, the adapter's base cannot be found, or a file is damaged.
        ConfigError: a revision of what is not on the hub.

    """
    name, directory = str(name), Path(name).expanduser()
    if name != EMBEDDED_MODEL and (directory / ADAPTER_CONFIG).is_file():
        return _find_adapter(name, directory, revision, trust_remote_code)
    if name != EMBEDDED_MODEL and directory.is_dir():
        remedy = "Name a directory of `spice-select finetune`, or one where save_pretrained wrote model and tokenizer."
    else:
        remedy = "Name a directory of `spice-select finetune`, a model's directory, or a hub id that can be reached."
    with _explained("", remedy):
        source = _source(name, revision, trust_remote_code, name)
        return FoundCheckpoint(name, source, None, loading.load_tokenizer(source), ("", remedy))


def _find_adapter(name: str, directory: Path, revision: str | None, trust_remote_code: bool) -> FoundCheckpoint:
    base_name, base_revision, origin = _base_of(directory)
    refuse_pickled_adapter(directory)
    if not (directory / ADAPTER).is_file():
        raise ModelError(f"{name}: {ADAPTER} is missing; the adapter was not saved whole. Save it again.")
    with _adapter_errors(name):
        config = cast(PeftConfig, PeftConfig.from_pretrained(str(directory)))
    if config.is_prompt_learning:
        raise ModelError(f"{name}: a {config.peft_type} adapter cannot be merged into weights; use LoRA.")
    adapter = loading.ModelSource(name, str(directory), {"trust_remote_code": trust_remote_code})
    explanation = (f"{name}: its base model cannot be loaded. ", f"Restore '{base_name}', or correct {origin}.")
    has_tokenizer = (directory / TOKENIZER_CONFIG).is_file()  # save_pretrained writes it with every tokenizer
    with _explained(*explanation):
        base = _source(base_name, revision or base_revision, trust_remote_code, f"{base_name}, the base of {name},")
        tokenizer = None if has_tokenizer else loading.load_tokenizer(base)
    if tokenizer is None:
        with _explained("", f"Remove the damaged tokenizer files from {name} to use the base's, or save them again."):
            tokenizer = loading.load_tokenizer(adapter)
    return FoundCheckpoint(name, base, (adapter, config), tokenizer, explanation)


def load_weights(found: FoundCheckpoint, device: torch.device, dtype: str) -> LoadedModel:
    """Load a checkpoint's weights in `dtype` ("auto", "float32" or "bfloat16"); an adapter is merged into its base.

    Raises `ModelError` if weights are damaged, an adapter does not fit its base, or the memory does not suffice.
    """
    remedy = "Use --dtype bfloat16, a device with more memory, or --device cpu."
    with explain_out_of_memory(remedy, f"loading {found.name} to {device}"):
        with _explained(*found.explanation):
            model, fingerprint = loading.load_model(found.model, dtype, device), loading.model_fingerprint(found.model)
        if found.adapter is not None:
            model = _merge(*found.adapter, model)
            fingerprint = f"{loading.model_fingerprint(found.adapter[0])}+{fingerprint}"
    return LoadedModel(model, found.tokenizer, found.name, fingerprint)


def _base_of(directory: Path) -> tuple[str, str | None, str]:
    """Name and revision of an adapter's base, and the file and field that name it."""
    ours = (directory / FINETUNE).is_file()
    path, key = (directory / FINETUNE, "model") if ours else (directory / ADAPTER_CONFIG, "base_model_name_or_path")
    fields = read_object(path)
    base, revision = fields.get(key), fields.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{path}: field '{key}' names no base model; write its directory or hub id there.")
    return base, revision if isinstance(revision, str) else None, f"'{key}' in {path}"


def target_digests(checkpoint: str | Path) -> list[str]:
    """The sha256 of the files that a checkpoint's training rows were chosen for, where it says so."""
    path = Path(checkpoint).expanduser() / FINETUNE
    found = read_object(path).get("target") if path.is_file() else None
    return [str(digest) for digest in cast("list[Any]", found)] if isinstance(found, list) else []


def _merge(adapter: loading.ModelSource, config: PeftConfig, model: "PreTrainedModel") -> "PreTrainedModel":
    with _adapter_errors(adapter.name):
        adapted = PeftModel(model, config)
        loaded = cast(Any, adapted.load_adapter(adapter.location, "default", torch_device=str(model.device)))
        stray = [*loaded.missing_keys, *loaded.unexpected_keys]
        if stray:
            raise ModelError(
                f"{adapter.name}: the adapter does not fit its base model: {len(stray)} weights are missing or "
                f"unexpected, for example {stray[0]}.\nSave the adapter again, or name the base it was trained on."
            )
        # safe_merge refuses a merged weight that is NaN or infinite.
        merged = cast("PreTrainedModel", cast(Any, adapted).merge_and_unload(safe_merge=True))
    return merged.eval().requires_grad_(False)


@contextmanager
def _adapter_errors(name: str) -> Generator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about missing keys; they are an error of their own
            yield
    except torch.OutOfMemoryError:
        raise  # a RuntimeError too, but nothing is wrong with the adapter
    except loading.LOADING_ERRORS as error:
        raise ModelError(
            f"{name}: the adapter cannot be loaded: {_reason(error)}\n"
            "Save it again, or name the base it was trained on."
        ) from error


def _source(name: str, revision: str | None, trust_remote_code: bool, described: str) -> loading.ModelSource:
    """Find a model and read its configuration; refuse a revision of what is not on the hub."""
    source = loading.model_source(
        resolve({}, {"model": name, "revision": revision, "trust_remote_code": trust_remote_code})
    )
    if revision is not None and "revision" not in source.arguments:
        raise ConfigError(f"revision '{revision}' is given, but {described} is no hub id; leave it out.")
    if source.name != EMBEDDED_MODEL:  # its file is known by its sha256
        try:
            with loading.quiet():
                AutoConfig.from_pretrained(source.location, **source.arguments)
        except loading.LOADING_ERRORS as error:
            raise ModelError(f"the configuration of '{source.name}' cannot be loaded: {_reason(error)}") from error
    return source


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _explained(prefix: str, remedy: str) -> Generator[None]:
    """Keep the reason of a `ModelError`, and replace its advice about --model by `remedy`."""
    try:
        yield
    except ModelError as error:
        reason = str(error).splitlines()[0].split("; --model")[0]
        raise ModelError(f"{prefix}{reason}\n{remedy}") from error
