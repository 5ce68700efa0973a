"""`SelectingSampler`: a Trainer's batches, chosen by the gradients of the model as it stands.

from spice_select.trainers import SelectingSampler
sampler = SelectingSampler(trainer, output="chosen", candidates=120, picks=12, update_every=10)   # docs/trainers.md
trainer.train()

The rows are shuffled and cut into candidate pools. When the rows of a cycle of pools are used up, the gradients of the
next cycle's candidates are taken, and its picks are the coming rows. The Trainer collects all batches of an optimizer
step before it trains on the first, and nothing is read further ahead: at a choice the adapters are those after the step
before the one that the first row chosen is part of.
"""

import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset as HubDataset
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer

from spice_select.amounts import GIB
from spice_select.choices import BadRow, PoolRecord
from spice_select.distributed.process_group import all_gather_texts, process_group
from spice_select.errors import ConfigError, ModelError
from spice_select.gradients.gram import HeldGradients, pool_gram
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.progress import NoProgress, Progress
from spice_select.proxy.lora import TOKENS_OF_A_PASS, Proxy
from spice_select.proxy.padding import refuse_padding_dependent
from spice_select.schedule.bad_rows import bad_row, bad_rows, stop_or_report
from spice_select.schedule.pick_in_pool import pick_among_usable
from spice_select.schedule.pools import CandidatePool, cut_cycles, cut_pools, update_order
from spice_select.schedule.targets import refuse_only_leaks, report_leaks
from spice_select.stopwatch import Stopwatch
from spice_select.trainers.adapters import layers_of, undisturbed
from spice_select.trainers.callback import Recorder
from spice_select.trainers.options import TARGET, refuse_what_cannot_be_measured, run_config
from spice_select.trainers.record import Chosen, TrainingRecord, packed, unpacked
from spice_select.trainers.rows import Dataset, TrainerRows

REMEDY = "Lower batch_tokens or gradient_memory, or train with shorter rows."


class SelectingSampler(Sampler[list[int]]):
    """The batches of a trainer, one process's share each; places in the trainer's dataset.

    Attributes:
        chosen: the picks of each candidate pool so far, by its number (text); index i is row i of the usable ones.
        rows_per_epoch: how many rows the trainer trains on in one of its epochs.

    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        output: str | Path,
        candidates: int = 120,
        picks: int = 12,
        update_every: int | str = 10,
        rows: int | None = None,
        target: Dataset | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        """Make `trainer` train on chosen rows; call this once, when it is built, in every process.

        Args:
            trainer: a `transformers.Trainer`, or a subclass such as TRL's `SFTTrainer`, with a PEFT model (LoRA).
            output: directory of the record, in the form of a run's; `spice-select report` explains it.
            candidates: m, candidates of a pool.
            picks: k, rows chosen of a pool; of a smaller last pool in proportion.
            update_every: T, pools that are chosen from by the same adapters; or "never", by those at the start.
            rows: rows trained on in an epoch of the trainer; the candidates are then gone through as often as it
                takes. None: every row is a candidate once in an epoch.
            target: rows of what to become good at, prepared as the trainer's dataset is.
            overwrite: whether a training without a checkpoint may replace the record that `output` holds.
            progress: receives notes and finished candidates.
            **options: of a run: method, penalty, scale, directions, fisher_alpha, fisher_alpha_mode, seed (of the
                trainer by default), target_rule, target_share, keep_target_rows, on_bad_gradient, batch_tokens,
                gradient_memory.

        Raises:
            SpiceSelectError: model, dataset, options or settings of the trainer do not allow it; nothing is changed.

        """
        refuse_what_cannot_be_measured(trainer)
        host: Any = trainer  # whose annotations are partial
        self._trainer, self._progress, self._watch = host, progress or NoProgress(), Stopwatch()
        self._base, self._layers = layers_of(host.model)
        self._config = run_config(trainer, options, candidates, update_every, aimed=target is not None)
        self._rows, self._target = self._read(target)
        self._aims = [] if self._target is None else [self._target[index] for index in range(len(self._target))]
        self._equal = self._rows.equal_to(self._target) if self._target and not self._config.keep_target_rows else {}
        report_leaks(self._leaks(0), self._config, self._progress)
        self._candidates = [index for index in range(len(self._rows)) if index not in self._equal]
        refuse_only_leaks(len(self._equal), len(self._candidates))
        with process_group() as ranks:
            self._ranks = ranks
        self._share = int(host._train_batch_size)
        self._whole = self._share * ranks.size  # rows of a batch, of one process and of all
        if not 1 <= picks <= candidates:
            raise ConfigError(f"picks={picks} of candidates={candidates}: choose 1 to {candidates} rows of each pool.")
        self._lap = max(1, round(len(self._candidates) * picks / candidates))  # of all candidates once
        self.rows_per_epoch = self._rows_of_an_epoch(rows)
        self._laps = math.ceil(self.rows_per_epoch / self._lap)
        self._config = self._config.model_copy(update={"budget": str(self.rows_per_epoch)})
        self.chosen: Chosen = {}
        self.epoch = 0
        self._record = TrainingRecord(Path(output), self._config, self._rows, self._target)
        self._overwrite, self._held = overwrite, HeldGradients()
        host.get_train_dataloader = self._loader  # of this one trainer
        host.add_callback(Recorder(self.begin, self.at_step, self.finish))
        untrained = sum(len(rows.rejected) for rows in (self._rows, self._target) if rows is not None)
        self._progress.note(
            f"{len(self._candidates):,} candidates; {untrained:,} rows without a trained token are left out; "
            f"training on {self.rows_per_epoch:,} an epoch, {picks} of {candidates}"
        )

    def __len__(self) -> int:
        return math.ceil(self.rows_per_epoch / self._whole)

    def __iter__(self) -> Iterator[list[int]]:
        start, waiting, first = self._ranks.rank * self._share, list[int](), list[int]()
        for number, pools in enumerate(cut_cycles(self._pools(), self._config.update_every)):
            picked = self._picks_of(pools)
            waiting += update_order(picked, self._seed(self.epoch), number)
            while len(waiting) >= self._whole:
                batch, waiting = waiting[: self._whole], waiting[self._whole :]
                first = first or batch
                yield self._places(batch[start : start + self._share])
        if waiting and self._ranks.size > 1:  # every process needs rows: as accelerate does, those of the first batch
            waiting += ((first or waiting) * self._whole)[: self._whole - len(waiting)]
        if waiting:
            yield self._places(waiting[start : start + self._share])

    def _read(self, target: Dataset | None) -> tuple[TrainerRows, TrainerRows | None]:
        """The trainer's rows, and those of the target, by the trainer's own loaders, collator and columns."""
        host = self._trainer
        with self._measuring():
            refuse_padding_dependent(self._base, "the trainer's model")
            own = host.get_train_dataloader()
            aims = None if target is None else host.get_eval_dataloader(target)
        columns = host.train_dataset.column_names if isinstance(host.train_dataset, HubDataset) else []
        sources = cast("Sequence[str]", host.train_dataset["source"]) if "source" in columns else None
        rows = TrainerRows(own, "train_dataset", sources, host.processing_class)
        return rows, None if aims is None else TrainerRows(aims, TARGET, None, host.processing_class)

    def _rows_of_an_epoch(self, rows: int | None) -> int:
        """As many as asked for, or those of one lap; whole batches where the trainer drops the last."""
        if rows is not None and rows < 1:
            raise ConfigError(f"rows={rows}: train on at least one row in an epoch.")
        wanted = rows or self._lap
        found = wanted - (wanted % self._whole if self._trainer.args.dataloader_drop_last else 0)
        if not found:
            raise ConfigError(
                f"{wanted} rows are less than a batch of {self._whole}: lower per_device_train_batch_size, or raise "
                "rows or picks."
            )
        return found

    def begin(self, chosen: Chosen | None) -> Chosen:
        """Start a training: a new one with None, or one that had `chosen` when its checkpoint was written.

        Returns the picks so far; those that are made later are added to it.
        """
        self.chosen = chosen or {}
        if self._ranks.rank == 0:
            if chosen is None:
                self._record.begin(overwrite=self._overwrite)
            else:
                self._record.resume(chosen)
        return self.chosen

    def at_step(self, step: int) -> None:
        """An epoch starts when so many optimizer steps are done."""
        self.epoch = step // math.ceil(len(self) / self._trainer.args.gradient_accumulation_steps)

    def finish(self) -> None:
        """Write the record's tables when the training has ended."""
        self._held = HeldGradients()
        if self._ranks.rank == 0:
            parameters = sum(layer.a.weight.numel() + layer.b.weight.numel() for layer in self._layers.values())
            about = {"name": self._config.model, "device": self._base.device.type, "parameters": parameters,
                     "adapted_layers": len(self._layers)}  # fmt: skip
            self._record.finish(about, self._watch)

    def _loader(self) -> DataLoader[Any]:
        # Not prepared by accelerate: its loader reads a batch ahead, by which a choice would come one step too early.
        pinned = self._trainer.args.dataloader_pin_memory and torch.cuda.is_available()
        return DataLoader(
            cast(Any, self._rows.dataset), batch_sampler=self, collate_fn=self._rows.collate, pin_memory=pinned
        )

    def _seed(self, lap: int) -> int:
        """A seed of its own for each lap or epoch; a run's seeds are below 2^32."""
        return self._config.seed + (lap << 32)

    def _places(self, rows: list[int]) -> list[int]:
        return [int(self._rows.places[row % len(self._rows)]) for row in rows]

    def _pools(self) -> list[CandidatePool]:
        """The candidate pools of the epoch, lap by lap; the same whoever asks, and whenever."""
        found, left, size = list[CandidatePool](), self.rows_per_epoch, len(self._rows)
        for lap in range(self.epoch * self._laps, (self.epoch + 1) * self._laps):
            pools = cut_pools(len(self._candidates), cast(int, self._config.candidates), self._lap, self._seed(lap))
            for pool in pools if left else []:
                quota = min(pool.quota, left)
                rows = [lap * size + self._candidates[row] for row in pool.rows]
                found.append(CandidatePool(lap * len(pools) + pool.index, rows, quota))
                left -= quota
                if not left:
                    break
        return found

    def _picks_of(self, pools: list[CandidatePool]) -> list[int]:
        """The picks of a cycle, from memory where it was chosen before a checkpoint; processes share its pools."""
        missing = [pool for pool in pools if str(pool.index) not in self.chosen]
        if missing:
            with self._measuring(), explain_out_of_memory(REMEDY), self._watch.time("gradients"):
                own = [self._choose(pool) for pool in missing[self._ranks.rank :: self._ranks.size]]
            for text in all_gather_texts(self._ranks, packed(own)):
                for record, gram in unpacked(text):
                    self.chosen[str(record.pool)] = record.picked_rows
                    if self._ranks.rank == 0:
                        self._record.save(record, gram)
        return [row for pool in pools for row in self.chosen[str(pool.index)]]

    def _choose(self, pool: CandidatePool) -> tuple[PoolRecord, Tensor | None]:
        """Choose in one pool, and return the Gram matrix of its usable rows and the target's, by the model as it is."""
        lap, number = divmod(pool.index, math.ceil(len(self._candidates) / cast(int, self._config.candidates)))
        leaks = self._leaks(lap) if number == 0 else []  # known before any choice: in the first pool's record
        if not pool.quota:
            return PoolRecord(pool.index, pool.rows, [], 0, False, 0.0, None, leaks=leaks), None
        config, start, rows = self._config, time.perf_counter(), [self._rows[index] for index in pool.rows]
        lines, targets, measured = [row.line for row in rows], [row.line for row in self._aims], [*rows, *self._aims]
        proxy = Proxy(self._base, self._layers, self._tokens_of_a_pass())
        batches = proxy.batches([len(row.input_ids) for row in measured])
        memory = int(config.gradient_memory * GIB)
        gram, losses = pool_gram(self._base, self._layers, measured, batches, memory, self._held)
        nothing = bad_rows(targets, gram.diagonal()[len(rows) :])
        stop_or_report(nothing, config, self._progress, "of the target count for nothing")
        weights = torch.full((len(targets),), 1 / len(targets), dtype=torch.float64) if targets else None
        seconds = time.perf_counter() - start
        record, usable = pick_among_usable(pool, gram, lines, config, seconds, targets, weights, losses)
        stop_or_report(record.bad, config, self._progress)
        if len(record.picks) < pool.quota:  # the Trainer counts on all of them
            raise ModelError(
                f"candidate pool {pool.index}: {pool.quota} of its {len(rows)} rows are to be trained on, and only "
                f"{len(record.picks)} can be chosen.\nTry a lower learning rate, float32, or more candidates."
            )
        return replace(record, leaks=leaks), usable

    def _leaks(self, lap: int) -> list[BadRow]:
        lines = ((self._rows.line(lap * len(self._rows) + index), name) for index, name in self._equal.items())
        return [bad_row(line, f"equals target row {name}") for line, name in lines]

    def _tokens_of_a_pass(self) -> int:
        """Padded tokens of a pass: as given, or on a GPU those of a batch of the longest rows, which training holds."""
        if isinstance(self._config.batch_tokens, int):
            return self._config.batch_tokens
        on_gpu = self._share * self._rows.longest if self._base.device.type == "cuda" else 0
        return max(TOKENS_OF_A_PASS, on_gpu)

    @contextmanager
    def _measuring(self) -> Generator[None]:
        """Passes over the model in the trainer's precision, without dropout; nothing of the training is changed."""
        with (
            undisturbed(cast(torch.nn.Module, self._trainer.model), self._base.device),
            self._trainer.accelerator.autocast(),
        ):
            yield
