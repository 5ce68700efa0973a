"""`select`: the one place that wires the stages together.

    from spice_select import select
    result = select(["pool.jsonl"], budget="10%", output="run")
    result.rows          # the chosen rows as they were, in the pool's order

The same function stands behind `spice-select run`.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from spice_select.config import EMBEDDED_MODEL, WITHOUT_GRADIENTS, WITHOUT_MODEL, RunConfig, dump_yaml, resolve
from spice_select.errors import ConfigError
from spice_select.output import recipes
from spice_select.output.directory import (
    CHECKPOINT,
    Existing,
    clear,
    ensure_writable,
    inspect_output,
    refuse_own_inputs,
    sweep,
)
from spice_select.output.manifest import manifest, versions
from spice_select.output.records import PoolRecord
from spice_select.output.results import chosen_rows, write_results
from spice_select.output.summary import Summary, summarise
from spice_select.pool.examples import Pool, PoolInput, PoolOptions, read_pool
from spice_select.pool.records import Chat, Listing
from spice_select.pool.sources import as_list
from spice_select.progress import NoProgress, Progress
from spice_select.proxy.embedded import HUB_NAME
from spice_select.proxy.loading import (
    load_model,
    load_tokenizer,
    model_fingerprint,
    model_source,
    pick_device,
)
from spice_select.proxy.lora import Proxy, attach_lora
from spice_select.schedule.checkpoint import Checkpoint
from spice_select.schedule.interleaved import run_interleaved
from spice_select.schedule.ordered import run_ordered

MACHINE_KEYS = {"token_budget", "gradient_memory", "parquet", "device", "skip_invalid", "preset"}
"""Options that may differ between a run and its resumption: they do not decide which rows are chosen."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What `select` returns: the chosen rows, and all that is known about the choice.

    `indices` are places among the usable rows, in the order of picking, pool by pool; `rows` are the chosen rows as
    they were, in the pool's order.
    """

    config: RunConfig
    pool: Listing
    chosen: list[Chat]
    records: list[PoolRecord]
    summary: Summary
    output: Path | None
    seconds: dict[str, float]

    @property
    def indices(self) -> list[int]:
        """Chosen examples in the order of picking."""
        return [row for record in self.records for row in record.picked_rows]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Chosen rows, all fields, in the pool's order."""
        return [chat.row.data for chat in self.chosen]


def select(
    pools: PoolInput | Sequence[PoolInput],
    config: RunConfig | None = None,
    *,
    output: str | Path | None = None,
    existing: Existing = "refuse",
    progress: Progress | None = None,
    **options: Any,
) -> RunResult:
    """Choose the rows of `pools` worth fine-tuning on.

    Args:
        pools: files, dataset directories, hub ids, `datasets.Dataset`s or lists of rows; each is a named source.
        config: a validated configuration; or give its fields as keyword `options`.
        output: directory to leave the results in. Without one nothing is written and the run cannot be resumed.
        existing: what to do when `output` exists: "refuse", "resume" or "overwrite".
        progress: told about stages and finished rows.
        **options: fields of `RunConfig`; they win over `config`.

    Raises:
        SpiceSelectError: whatever the user can mend; the message says how. Nothing is written before the options, the
            pool and the model are known to be good.

    """
    merged = _located(_merged(config, options))
    inputs = as_list(pools)
    if not inputs:
        raise ConfigError("no pool was given; name at least one file, directory, dataset id or dataset.")
    reporter = progress or NoProgress()
    if output is not None:
        return _run(inputs, merged, Path(output), existing, reporter)
    with tempfile.TemporaryDirectory(prefix="spice-select-") as scratch:
        return replace(_run(inputs, merged, Path(scratch) / "run", "refuse", reporter), output=None)


def _run(
    inputs: list[PoolInput], config: RunConfig, directory: Path, existing: Existing, progress: Progress
) -> RunResult:
    state = inspect_output(directory, existing)
    started = time.perf_counter()
    progress.note("reading the pool")
    source = model_source(config)
    device = pick_device(config.device)
    tokenizer = load_tokenizer(source)
    pool = read_pool(inputs, tokenizer, _pool_options(config))
    budget = config.budget_rows(len(pool.examples), pool.trained_tokens)
    read = time.perf_counter()
    _tell_about(pool, budget, config, progress)

    refuse_own_inputs(directory, [file.path for file in pool.files])
    checkpoint = Checkpoint(directory / CHECKPOINT)
    model = {"name": config.model, "fingerprint": model_fingerprint(source), "device": device.type}
    identity = _identity(config, pool, model)
    if state != "new":
        checkpoint.verify(identity)
        sweep(directory)
    proxy = None
    if config.method not in WITHOUT_MODEL and state != "complete":
        progress.note(f"loading {config.model}")
        proxy = attach_lora(load_model(source, config.dtype, device), config.lora_rank, config.lora_alpha, config.seed)
        model |= {"parameters": proxy.parameters, "adapted_layers": len(proxy.factors) // 2}
    if state == "new":
        ensure_writable(directory)
        clear(directory)
        checkpoint.start(identity)
    loaded = time.perf_counter()

    if state == "complete":
        records = [record for _, record in sorted(checkpoint.records().items())]
    else:
        records = _choose(pool, budget, config, proxy, checkpoint, progress)
    listing, chosen = pool.listing(), [pool.examples[i] for i in chosen_rows(records)]
    summary = summarise(listing.lines, records, budget if config.budget_tokens is None else _picks(records))
    seconds = {"reading": read - started, "loading": loaded - read, "choosing": time.perf_counter() - loaded}
    if state != "complete":
        about = manifest(config, listing, model, records, summary, seconds)
        target = recipes.Target(_hub_name(config), config.max_length, _end_of_turn(pool, tokenizer))
        run_yaml = dump_yaml(config, [file.path for file in pool.files], str(directory))
        write_results(directory, listing, chosen, records, summary, target, run_yaml, about, config.parquet)
        checkpoint.drop_proxy()
    return RunResult(config, listing, [*chosen], records, summary, directory, seconds)


def _choose(
    pool: Pool, budget: int, config: RunConfig, proxy: Proxy | None, checkpoint: Checkpoint, progress: Progress
) -> list[PoolRecord]:
    if config.method in WITHOUT_GRADIENTS:
        return run_ordered(pool.examples, config, proxy, checkpoint, progress)
    assert proxy is not None
    return run_interleaved(pool.examples, budget, config, proxy, checkpoint, progress)


def _picks(records: Sequence[PoolRecord]) -> int:
    return sum(len(record.picks) for record in records)


def _identity(config: RunConfig, pool: Pool, model: dict[str, Any]) -> dict[str, Any]:
    """Return what must be the same for a resumed run to give the identical subset."""
    decisive = {key: value for key, value in config.model_dump().items() if key not in MACHINE_KEYS}
    if config.dtype != "float32":
        decisive["token_budget"] = config.token_budget  # rounding is too coarse for batches to make no difference
    packages = versions()
    return {
        **decisive,
        "data": [file.sha256 for file in pool.files],
        "weights": model["fingerprint"],
        "device": model["device"],
        "versions": {name: packages[name] for name in ("spice-select", "torch", "transformers", "peft", "tokenizers")},
    }


def _hub_name(config: RunConfig) -> str:
    return HUB_NAME if config.model == EMBEDDED_MODEL else config.model


def _end_of_turn(pool: Pool, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the token that ends an assistant's turn, where trainers that expect the eos token must be told."""
    whole = next((example for example in pool.examples if not example.truncated), None)
    if whole is None:
        return None
    last = int(whole.input_ids[whole.trained][-1])
    return None if last == tokenizer.eos_token_id else cast(str, tokenizer.convert_ids_to_tokens(last))


def _merged(config: RunConfig | None, options: dict[str, Any]) -> RunConfig:
    if config is None:
        return resolve({}, options, "options")
    return resolve(config.model_dump(exclude_unset=True), options, "options") if options else config


def _located(config: RunConfig) -> RunConfig:
    """The configuration as it is understood from every working directory: a model's directory by its full path."""
    path = Path(config.model).expanduser()
    if config.model == EMBEDDED_MODEL or not path.is_dir():
        return config
    return config.model_copy(update={"model": str(path.resolve())})


def _pool_options(config: RunConfig) -> PoolOptions:
    return PoolOptions(config.format, config.columns, config.skip_invalid, config.max_length)


def _tell_about(pool: Pool, budget: int, config: RunConfig, progress: Progress) -> None:
    rows = len(pool.examples)
    progress.note(
        f"{rows:,} rows, {pool.total_tokens:,} tokens, {pool.trained_tokens:,} of them trained; keeping "
        + (f"{budget:,}" if config.budget_tokens is None else f"about {config.budget_tokens:,} trained tokens")
    )
    if pool.rejected:
        progress.note(f"{len(pool.rejected):,} rows cannot be used: see rejected.jsonl")
    if pool.truncated:
        progress.note(f"{pool.truncated:,} rows are longer than {config.max_length} tokens and were cut at the end")
