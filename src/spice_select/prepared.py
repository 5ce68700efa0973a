"""The first steps of a command that runs the proxy over a pool: options, pool, model. Nothing is written here."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from spice_select.amounts import parse_target
from spice_select.config import EMBEDDED_MODEL, RunConfig, resolve
from spice_select.pool.examples import Pool, PoolInput, PoolOptions, read_pool
from spice_select.pool.sources import options_meant
from spice_select.progress import Progress
from spice_select.proxy import loading
from spice_select.proxy.embedded import HUB_NAME
from spice_select.proxy.lora import Proxy, attach_lora


@dataclass(frozen=True, slots=True)
class Prepared:
    """A pool that was read, and the model for its gradients; `about` describes the model for the manifest.

    `targets` are the pools of what rows are chosen for, one for each target of `config`.
    """

    config: RunConfig
    pool: Pool
    tokenizer: PreTrainedTokenizerBase
    about: dict[str, Any] = field(repr=False)
    source: loading.ModelSource
    device: torch.device
    targets: list[Pool] = field(default_factory=list[Pool])

    @property
    def hub_name(self) -> str:
        """The name by which trainers find the model."""
        return HUB_NAME if self.config.model == EMBEDDED_MODEL else self.config.model

    def proxy(self, progress: Progress) -> Proxy:
        """Load the model and attach seeded adapters."""
        config = self.config
        progress.note(f"loading {config.model}")
        model = loading.load_model(self.source, config.dtype, self.device)
        proxy = attach_lora(model, config.lora_rank, config.lora_alpha, config.seed, config.last_blocks)
        self.about.update(parameters=proxy.parameters, adapted_layers=len(proxy.layers))
        return proxy


def merged_config(config: RunConfig | None, options: dict[str, Any]) -> RunConfig:
    """`options` over `config`, with the full paths of model and chat template, so that they are found from anywhere."""
    if config is None:
        merged = resolve({}, options, "options")
    else:
        merged = resolve(config.model_dump(exclude_unset=True), options, "options") if options else config
    found: dict[str, str] = {}
    path = Path(merged.model).expanduser()
    if merged.model != EMBEDDED_MODEL and path.is_dir():
        found["model"] = str(path.resolve())
    if merged.chat_template is not None and (file := Path(merged.chat_template).expanduser()).is_file():
        found["chat_template"] = str(file.resolve())
    return merged.model_copy(update=found) if found else merged


def prepare(inputs: Sequence[PoolInput], config: RunConfig, progress: Progress) -> Prepared:
    """Read the pool with the model's tokenizer; the model itself is found but not loaded."""
    progress.note("reading the pool")
    source = loading.model_source(config, progress.note)
    device = loading.pick_device(config.device)
    tokenizer = loading.load_tokenizer(source)
    places, common = [parse_target(place)[0] for place in config.target], config.per_file
    own = [options_meant(common, [place]) for place in places]
    others = {name: one for name, one in common.items() if not any(name in found for found in own)}
    mixed = {**others, **options_meant(common, inputs)} if any(own) else common
    options = PoolOptions(config.format, config.columns, config.skip_invalid, config.max_length, mixed)
    pool = read_pool(inputs, tokenizer, options, progress.note)
    targets = [
        read_pool(
            [place], tokenizer, PoolOptions(None, {}, config.skip_invalid, config.max_length, found), progress.note
        )
        for place, found in zip(places, own, strict=True)
    ]
    config = config.model_copy(update={"dtype": loading.resolved_dtype(config.dtype, device)})
    about = {"name": config.model, "fingerprint": loading.model_fingerprint(source), "device": device.type}
    if source.chat_template is not None:
        about["chat_template"] = f"sha256:{hashlib.sha256(source.chat_template.encode()).hexdigest()}"
    return Prepared(config, pool, tokenizer, about, source, device, targets)


def report_pool(pool: Pool, config: RunConfig, purpose: str, progress: Progress) -> None:
    """Report the size of the pool, the `purpose`, and the rows that cannot be used or were cut."""
    rows = len(pool.examples)
    progress.note(f"{rows:,} rows, {pool.total_tokens:,} tokens, {pool.trained_tokens:,} of them trained; {purpose}")
    for remark in pool.remarks(config.max_length):
        progress.note(remark)
