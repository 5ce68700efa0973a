"""The first steps of a command that runs the proxy over a pool: options, pool, model. Nothing is written here."""

import hashlib
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from spice_select.config import RunConfig, resolve
from spice_select.distributed.process_group import all_gather_texts
from spice_select.file_options import FileOptions
from spice_select.information.ranks import Ranks
from spice_select.option_values import EMBEDDED_MODEL, TRAINING, WITHOUT_GRADIENTS, implied
from spice_select.pool.examples import Pool, PoolInput, PoolOptions, read_pool
from spice_select.pool.problems import one_line
from spice_select.pool.sources import Copy, downloaded, is_address, options_meant
from spice_select.progress import Progress
from spice_select.proxy import loading
from spice_select.proxy.embedded import HUB_NAME
from spice_select.proxy.lora import Proxy, attach_lora


@dataclass(frozen=True, slots=True)
class Prepared:
    """A pool that was read, and the model for its gradients; `about` describes the model for the manifest.

    `targets` are the pools of what rows are chosen for, one for each target of `config`; `judges` are further models.
    """

    config: RunConfig
    pool: Pool
    tokenizer: PreTrainedTokenizerBase
    about: dict[str, Any] = field(repr=False)
    source: loading.ModelSource
    device: torch.device
    targets: list[Pool] = field(default_factory=list[Pool])
    judges: list[loading.ModelSource] = field(default_factory=list[loading.ModelSource])

    @property
    def hub_name(self) -> str:
        """The name by which trainers find the model."""
        return HUB_NAME if self.config.model == EMBEDDED_MODEL else self.config.model

    def proxy(self, progress: Progress) -> Proxy:
        """Load the model and attach seeded adapters; none where no gradient is computed and nothing is trained."""
        config = self.config
        progress.note(f"loading {config.model}")
        model = loading.load_model(self.source, config.dtype, self.device)
        if config.features == "states" or config.method in {*WITHOUT_GRADIENTS} - {*TRAINING}:
            return Proxy(model, {})
        proxy = attach_lora(model, config.lora_rank, config.lora_alpha, config.seed, config.last_blocks)
        self.about.update(parameters=proxy.parameters, adapted_layers=len(proxy.layers))
        return proxy


def merged_config(config: RunConfig | None, options: dict[str, Any]) -> RunConfig:
    """`options` over `config`, with the full paths of model and chat template, so that they are found from anywhere."""
    if config is None:
        merged = resolve({}, options, "options")
    else:
        own = config.model_dump(exclude_unset=True)
        meant = implied(own, "method", "features").items() if options.keys() & {"method", "features"} else ()
        kept = {key: value for key, value in own.items() if (key, value) not in meant}
        merged = resolve(kept, options, "options") if options else config
    found: dict[str, Any] = {"model": _full_path(merged.model), "judge": [_full_path(name) for name in merged.judge]}
    found = {key: value for key, value in found.items() if value != getattr(merged, key)}
    if merged.chat_template is not None and (file := Path(merged.chat_template).expanduser()).is_file():
        found["chat_template"] = str(file.resolve())
    return merged.model_copy(update=found) if found else merged


def _full_path(model: str) -> str:
    path = Path(model).expanduser()
    return str(path.resolve()) if model != EMBEDDED_MODEL and path.is_dir() else model


def copied_once(inputs: Sequence[PoolInput], ranks: Ranks) -> list[PoolInput]:
    """The inputs, those that are addresses as copies: the first process of each host downloads them for the others.

    All processes must call this. The copies stay until that process ends. Raises as `downloaded`.
    """
    if ranks.size == 1 or not any(map(is_address, inputs)):
        return [*inputs]
    hosts = all_gather_texts(ranks, socket.gethostname())
    first = hosts.index(hosts[ranks.rank])
    own = {one: str(downloaded(one).file) for one in inputs if is_address(one)} if first == ranks.rank else {}
    copies: dict[str, str] = json.loads(all_gather_texts(ranks, json.dumps(own))[first])
    return [Copy(one, Path(copies[one])) if is_address(one) else one for one in inputs]


def prepare(inputs: Sequence[PoolInput], config: RunConfig, progress: Progress) -> Prepared:
    """Read the pool with the model's tokenizer; the model itself is found but not loaded."""
    source = loading.model_source(config, progress.note)
    device = loading.pick_device(config.device)
    tokenizer = loading.load_tokenizer(source)
    targets = _read_targets(config, tokenizer, progress)  # first: a mistake in them shows at once
    progress.note("reading the pool")
    per_file = _of_the_pool(config, inputs)
    options = PoolOptions(config.format, config.columns, config.skip_invalid, config.max_length, per_file)
    pool = read_pool(inputs, tokenizer, options, progress.note)
    config = config.for_pool(len(pool.examples))
    config = config.model_copy(update={"dtype": loading.resolved_dtype(config.dtype, device), "model": source.name})
    about: dict[str, Any] = {
        "name": config.model,
        "fingerprint": loading.model_fingerprint(source),
        "device": device.type,
    }
    if source.chat_template is not None:
        about["chat_template"] = f"sha256:{hashlib.sha256(source.chat_template.encode()).hexdigest()}"
    own = {"revision": None, "chat_template": None}
    judges = [loading.model_source(config.model_copy(update={"model": name, **own})) for name in config.judge]
    if judges:
        about["judges"] = [{"name": judge.name, "fingerprint": loading.model_fingerprint(judge)} for judge in judges]
    return Prepared(config, pool, tokenizer, about, source, device, targets, judges)


def _read_targets(config: RunConfig, tokenizer: PreTrainedTokenizerBase, progress: Progress) -> list[Pool]:
    """The rows of each target; of format and columns only what names its file holds for it."""
    targets: list[Pool] = []
    for place in config.target_places:
        progress.note(f"reading the target {one_line(place)}")
        own = options_meant(config.per_file, [place])
        options = PoolOptions(None, {}, config.skip_invalid, config.max_length, own)
        targets.append(read_pool([place], tokenizer, options, progress.note))
    return targets


def _of_the_pool(config: RunConfig, inputs: Sequence[PoolInput]) -> dict[str, FileOptions]:
    """The options of single inputs without those that mean targets alone."""
    meant = [options_meant(config.per_file, [place]) for place in config.target_places]
    of_targets = set[str]().union(*meant)
    left = {name: own for name, own in config.per_file.items() if name not in of_targets}
    return left | (options_meant(config.per_file, inputs) if of_targets else {})


def report_pool(pool: Pool, config: RunConfig, purpose: str, progress: Progress) -> None:
    """Report the size of the pool, the `purpose`, and the rows that cannot be used or were cut."""
    rows = len(pool.examples)
    progress.note(f"{rows:,} rows, {pool.total_tokens:,} tokens, {pool.trained_tokens:,} of them trained; {purpose}")
    for remark in pool.remarks(config.max_length):
        progress.note(remark)
