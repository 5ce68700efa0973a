"""From a checkpoint's name to a model ready for evaluation: adapters merged, weights frozen, dropout off.

A checkpoint is a directory of `spice-select finetune` (an adapter whose `finetune.json` names its base), any other PEFT
adapter directory (whose `adapter_config.json` names it), a full model's directory, a hub id, or the embedded model.
"""

import json
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoConfig

from spice_select.config import EMBEDDED_MODEL, resolve
from spice_select.errors import ConfigError, ModelError
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.proxy.loading import (
    LOADING_ERRORS,
    ModelSource,
    load_model,
    load_tokenizer,
    model_fingerprint,
    model_source,
    quiet,
)
from spice_select.proxy.weights import ADAPTER as ADAPTER_WEIGHTS
from spice_select.proxy.weights import refuse_pickled_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_CONFIG = "adapter_config.json"
FINETUNE = "finetune.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
"""Every tokenizer written by save_pretrained has it."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode and the tokenizer it is to be read with.

    Attributes:
        model: merged, frozen, on its device.
        tokenizer: the checkpoint's own, or its base's.
        name: the checkpoint as it was named.
        fingerprint: what pins the weights; for an adapter, its own and its base's, joined by "+".

    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files were found and, but for the weights, read.

    Attributes:
        name: as it was named.
        model: the model, or the base of the adapter.
        adapter: the adapter, if it is one.
        tokenizer: as in `LoadedModel`.
        prefix: what precedes the reason when `model` cannot be loaded.
        remedy: what follows it.

    """

    name: str
    model: ModelSource
    adapter: ModelSource | None
    tokenizer: "PreTrainedTokenizerBase"
    prefix: str
    remedy: str


def load_checkpoint(
    name: str | Path,
    device: torch.device,
    dtype: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a checkpoint; an adapter is merged into its base in `dtype`.

    Args:
        name: a directory, a hub id, or the embedded model's name.
        device: where the model goes.
        dtype: "float32" or "bfloat16".
        revision: of a hub id; for an adapter, of its base, in place of the one it records.
        trust_remote_code: let the model repository's own Python code run.

    Raises:
        ModelError: no such directory, not a model, the adapter's base cannot be had, a file is damaged, or the memory
            does not suffice.
        ConfigError: a revision of what is not on the hub.

    """
    return load_weights(find_checkpoint(name, revision=revision, trust_remote_code=trust_remote_code), device, dtype)


def find_checkpoint(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Checkpoint:
    """What of `load_checkpoint` takes little time: find the files, read configurations and tokenizer."""
    name = str(name)
    directory = Path(name).expanduser()
    if name == EMBEDDED_MODEL or not directory.is_dir():
        remedy = "Name a directory of `spice-select finetune`, a model's directory, or a hub id that can be had."
    elif (directory / ADAPTER_CONFIG).is_file():
        return _find_adapter(name, directory, revision, trust_remote_code)
    elif (directory / "config.json").is_file():
        remedy = "Save the model and its tokenizer there again with save_pretrained."
    else:
        raise ModelError(
            f"{name}: holds neither {ADAPTER_CONFIG} nor config.json, so it is no checkpoint.\n"
            "Name a directory that `spice-select finetune` has finished, or one written by save_pretrained."
        )
    with _with_remedy("", remedy):
        source = _source(name, revision, trust_remote_code)
        _check_revision(revision, source, name)
        _check_configuration(source)
        return Checkpoint(name, source, None, load_tokenizer(source), "", remedy)


def _find_adapter(name: str, directory: Path, revision: str | None, trust_remote_code: bool) -> Checkpoint:
    base_name, base_revision, origin = _base_of(directory)
    refuse_pickled_adapter(directory)
    if not (directory / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{name}: {ADAPTER_WEIGHTS} is missing; the adapter was not saved whole. Save it again.")
    _adapter_config(name, directory)
    own = ModelSource(name, str(directory), {"trust_remote_code": trust_remote_code})
    prefix, remedy = f"{name}: its base model cannot be had. ", f"Bring '{base_name}' back, or correct {origin}."
    with _with_remedy(prefix, remedy):
        base = _source(base_name, revision or base_revision, trust_remote_code)
        _check_revision(revision, base, f"{base_name}, the base of {name},")
        _check_configuration(base)
        tokenizer = None if (directory / TOKENIZER_CONFIG).is_file() else load_tokenizer(base)
    if tokenizer is None:
        with _with_remedy("", f"Remove the damaged tokenizer files from {name} to use the base's, or save them again."):
            tokenizer = load_tokenizer(own)
    return Checkpoint(name, base, own, tokenizer, prefix, remedy)


def load_weights(found: Checkpoint, device: torch.device, dtype: str) -> LoadedModel:
    """The rest of `load_checkpoint`."""
    remedy = "Use --dtype bfloat16, a device with more memory, or --device cpu."
    with explain_out_of_memory(remedy, f"loading {found.name} to {device}"):
        with _with_remedy(found.prefix, found.remedy):
            model = load_model(found.model, dtype, device)
            fingerprint = model_fingerprint(found.model)
        if found.adapter is not None:
            model = _merge(found.name, Path(found.adapter.location), model, device)
            fingerprint = f"{model_fingerprint(found.adapter)}+{fingerprint}"
    return LoadedModel(model, found.tokenizer, found.name, fingerprint)


def _base_of(directory: Path) -> tuple[str, str | None, str]:
    """Name and revision of an adapter's base, and the file and field that say so."""
    record, key = (
        (FINETUNE, "model") if (directory / FINETUNE).is_file() else (ADAPTER_CONFIG, "base_model_name_or_path")
    )
    path = directory / record
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ModelError(f"{path}: cannot be read as JSON; the checkpoint is damaged. Save it again.") from None
    fields = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    base, revision = fields.get(key), fields.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{path}: field '{key}' names no base model; write its directory or hub id there.")
    return base, revision if isinstance(revision, str) else None, f"'{key}' in {path}"


def _adapter_config(name: str, directory: Path) -> PeftConfig:
    with _adapter_errors(name):
        config = cast(PeftConfig, PeftConfig.from_pretrained(str(directory)))
    if config.is_prompt_learning:
        raise ModelError(f"{name}: a {config.peft_type} adapter cannot be merged into weights; use LoRA.")
    return config


def _merge(name: str, directory: Path, model: "PreTrainedModel", device: torch.device) -> "PreTrainedModel":
    config = _adapter_config(name, directory)
    config.inference_mode = True
    with _adapter_errors(name):
        adapted = PeftModel(model, config)
        loaded = cast(Any, adapted.load_adapter(str(directory), "default", torch_device=str(device)))
        stray = [*loaded.missing_keys, *loaded.unexpected_keys]
        if stray:
            raise ModelError(
                f"{name}: the adapter does not fit its base model: {len(stray)} weights are missing or too many, "
                f"such as {stray[0]}.\nSave the adapter again, or name the base it was trained on."
            )
        # Checks that no merged weight is NaN or infinite.
        merged = cast("PreTrainedModel", cast(Any, adapted).merge_and_unload(safe_merge=True))
    merged.eval()
    return merged.requires_grad_(False)


@contextmanager
def _adapter_errors(name: str) -> Generator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about missing keys; they are an error of their own
            yield
    except torch.OutOfMemoryError:
        raise  # a RuntimeError too, but nothing is wrong with the adapter
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"{name}: the adapter cannot be loaded: {reason}\nSave it again, or name the base it was trained on."
        ) from error


def _source(name: str, revision: str | None, trust_remote_code: bool) -> ModelSource:
    return model_source(resolve({}, {"model": name, "revision": revision, "trust_remote_code": trust_remote_code}))


def _check_revision(revision: str | None, source: ModelSource, what: str) -> None:
    """Only the hub has revisions; elsewhere one would be ignored."""
    if revision is not None and "revision" not in source.arguments:
        raise ConfigError(f"revision '{revision}' is given, but {what} is no hub id; leave it out.")


def _check_configuration(source: ModelSource) -> None:
    if source.name == EMBEDDED_MODEL:
        return  # known by its sha256
    try:
        with quiet():
            AutoConfig.from_pretrained(source.location, **source.arguments)
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"the configuration of '{source.name}' cannot be loaded: {reason}") from error


@contextmanager
def _with_remedy(prefix: str, remedy: str) -> Generator[None]:
    """Keep what went wrong, and say what mends a checkpoint instead of what mends a run's --model."""
    try:
        yield
    except ModelError as error:
        reason = str(error).splitlines()[0].split("; --model")[0]
        raise ModelError(f"{prefix}{reason}\n{remedy}") from error
