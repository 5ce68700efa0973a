"""The first steps of a command that runs the proxy over a pool: options, pool, model. Nothing is written here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from spice_select.amounts import parse_target
from spice_select.config import EMBEDDED_MODEL, RunConfig, resolve
from spice_select.pool.examples import Pool, PoolInput, PoolOptions, read_pool
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

    @property
    def end_of_turn(self) -> str | None:
        """The token that ends an assistant's turn, if it is not the eos token that trainers expect."""
        whole = next((example for example in self.pool.examples if not example.truncated), None)
        if whole is None:
            return None
        last = int(whole.input_ids[whole.trained][-1])
        return None if last == self.tokenizer.eos_token_id else cast(str, self.tokenizer.convert_ids_to_tokens(last))

    def proxy(self, progress: Progress) -> Proxy:
        """Load the model and attach seeded adapters."""
        config = self.config
        progress.note(f"loading {config.model}")
        model = loading.load_model(self.source, config.dtype, self.device)
        proxy = attach_lora(model, config.lora_rank, config.lora_alpha, config.seed, config.last_blocks)
        self.about.update(parameters=proxy.parameters, adapted_layers=len(proxy.layers))
        return proxy


def merged_config(config: RunConfig | None, options: dict[str, Any]) -> RunConfig:
    """`options` over `config`, with a model's directory by its full path, so that it is found from anywhere."""
    if config is None:
        merged = resolve({}, options, "options")
    else:
        merged = resolve(config.model_dump(exclude_unset=True), options, "options") if options else config
    path = Path(merged.model).expanduser()
    if merged.model == EMBEDDED_MODEL or not path.is_dir():
        return merged
    return merged.model_copy(update={"model": str(path.resolve())})


def prepare(inputs: Sequence[PoolInput], config: RunConfig, progress: Progress) -> Prepared:
    """Read the pool with the model's tokenizer; the model itself is found but not loaded."""
    progress.note("reading the pool")
    source = loading.model_source(config, progress.note)
    device = loading.pick_device(config.device)
    tokenizer = loading.load_tokenizer(source)
    options = PoolOptions(config.format, config.columns, config.skip_invalid, config.max_length)
    pool = read_pool(inputs, tokenizer, options, progress.note)
    alike = PoolOptions(skip_invalid=config.skip_invalid, max_length=config.max_length)
    targets = [read_pool([parse_target(place)[0]], tokenizer, alike, progress.note) for place in config.target]
    config = config.model_copy(update={"dtype": loading.resolved_dtype(config.dtype, device)})
    about = {"name": config.model, "fingerprint": loading.model_fingerprint(source), "device": device.type}
    return Prepared(config, pool, tokenizer, about, source, device, targets)


def report_pool(pool: Pool, config: RunConfig, purpose: str, progress: Progress) -> None:
    """Report the size of the pool, the `purpose`, and the rows that cannot be used or were cut."""
    rows = len(pool.examples)
    progress.note(f"{rows:,} rows, {pool.total_tokens:,} tokens, {pool.trained_tokens:,} of them trained; {purpose}")
    for remark in pool.remarks(config.max_length):
        progress.note(remark)
