"""What the cells of a study share: the pool's gradients under a frozen proxy, and its response losses.

One backward pass over the whole pool gives the n x n Gram matrix from which every cell with a frozen proxy picks,
whatever its scale, alpha, penalty, rank and cut into pools. It is kept on disk and computed once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spice_select.amounts import GIB
from spice_select.config import RunConfig
from spice_select.errors import OutputError
from spice_select.files.atomic import write_bytes
from spice_select.gradients.gram import HeldGradients, layer_groups, pool_gram, rows_held
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.pool.examples import Pool
from spice_select.progress import Progress
from spice_select.proxy.loading import load_model, model_source, pick_device
from spice_select.proxy.lora import Proxy, attach_lora, merge
from spice_select.proxy.update import ProxyOptimizer
from spice_select.schedule.bad_rows import bad_rows, stop_or_report
from spice_select.schedule.batching import with_token_budget
from spice_select.schedule.proxy_training import warm_up
from spice_select.schedule.ranking import Losses, bad_losses, response_and_prompt_losses
from spice_select.study.files import read_json, write_json

LOSSES = "response-losses.json"
HELD_AS = torch.bfloat16
"""Type of gradients that wait between batches: a whole pool of them would not fit otherwise."""

MEMORY_ADVICE = "Lower gradient_memory in the study's YAML and give the same command again."


def gram_file(config: RunConfig) -> str:
    """Name of the Gram matrix that `config` picks from."""
    return f"gram-{config.seed}-{config.warmup_steps}.safetensors"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Measures pools for a study and keeps them in `directory`."""

    directory: Path
    pool: Pool
    progress: Progress

    def gram(self, config: RunConfig) -> Tensor:
        """Gram matrix [n, n] of the pool under the proxy of `config` (its seed, warm-up and LoRA), unscaled.

        Rows are marked as by `pool_gram` where the loss or gradient is not finite and `config` says to skip them.
        """
        path = self.directory / gram_file(config)
        if path.exists():
            try:
                kept = load(path.read_bytes())["gram"]
            except (SafetensorError, KeyError) as error:
                raise OutputError(f"{path}: is damaged ({error}); delete it and run the study again.") from error
            stop_or_report(bad_rows(self.pool.examples, kept.diagonal()), config, self.progress)
            return kept
        proxy = self._proxy(config)
        examples = self.pool.examples
        optimizer = ProxyOptimizer.create(proxy, config.learning_rate, config.lr_warmup_steps)
        warm_up(optimizer, examples, config, self.progress)
        merge(proxy)
        batches = proxy.batches([len(example.input_ids) for example in examples])
        memory = int(config.gradient_memory * GIB)
        passes = len(layer_groups(proxy.layers, rows_held(batches), memory, HELD_AS))
        if passes > 1:
            self.progress.note(f"gradients need {passes} passes over the pool; raise gradient_memory for fewer")
        self.progress.begin(f"gradients {config.seed}", len(examples), self.pool.total_tokens)
        with explain_out_of_memory(MEMORY_ADVICE):
            gram = pool_gram(
                proxy.model,
                proxy.layers,
                examples,
                batches,
                memory,
                HeldGradients(),
                lambda batch: self.progress.advance(len(batch), sum(len(examples[i].input_ids) for i in batch)),
                held_as=HELD_AS,
            )
        stop_or_report(bad_rows(examples, gram.diagonal()), config, self.progress)
        write_bytes(path, save({"gram": gram}))
        return gram

    def losses(self, config: RunConfig) -> Losses:
        """Losses of every response after its prompt and alone, under the untrained model."""
        path = self.directory / LOSSES
        if path.exists():
            saved = read_json(path)
            try:
                kept = self._losses(saved["conditioned"], saved["direct"])
            except (KeyError, TypeError, ValueError) as error:
                raise OutputError(f"{path}: is damaged ({error}); delete it and run the study again.") from error
            stop_or_report(bad_losses(self.pool.examples, kept), config, self.progress)
            return kept
        losses = response_and_prompt_losses(self.pool.examples, self._proxy(config), self.progress)
        stop_or_report(bad_losses(self.pool.examples, losses), config, self.progress)
        write_json(path, {"conditioned": losses.conditioned, "direct": losses.direct})
        return losses

    def _losses(self, conditioned: Sequence[float | None], direct: Sequence[float | None]) -> Losses:
        """Losses as read: null is a loss that is not finite, or alone that of a response of one token."""
        tokens = [example.trained_tokens for example in self.pool.examples]
        missing = [math.inf if count > 1 else math.nan for count in tokens]
        return Losses(
            [math.inf if value is None else value for value in conditioned],
            [other if value is None else value for value, other in zip(direct, missing, strict=True)],
        )

    def _proxy(self, config: RunConfig) -> Proxy:
        model = load_model(model_source(config), config.dtype, pick_device(config.device))
        proxy = attach_lora(model, config.lora_rank, config.lora_alpha, config.seed)
        return with_token_budget(proxy, config, self.pool.examples, self.directory)
