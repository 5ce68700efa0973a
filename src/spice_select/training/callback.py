"""What the Trainer tells while it works: every step's loss, and progress for people."""

# the Trainer's calls settle which arguments there are
# ruff: noqa: ARG002

import math
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from spice_select.progress import NoProgress, Progress


class Steps(TrainerCallback):
    """Keeps the loss of each optimizer step, reports progress, and ends a training whose loss or gradient is no number.

    `broken` says that it did: the loss of the last step, or the norm of its gradient, is not finite.

    Args:
        progress: told about finished steps and epochs.
        rows: passed in all epochs together.
        tokens: of these rows.

    """

    def __init__(self, progress: Progress, rows: int, tokens: int) -> None:
        self.losses: list[float] = []
        self.broken = False
        self._progress, self._rows, self._tokens = progress, rows, tokens
        self._told_rows = self._told_tokens = self._epoch_start = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the progress line."""
        self._progress.note(f"{state.max_steps:,} optimizer steps")
        self._progress.begin("fine-tuning", self._rows, self._tokens)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the loss; the Trainer logs every step, and at the end a summary without `loss`."""
        if logs is None or "loss" not in logs:
            return
        self.losses.append(float(logs["loss"]))
        if not math.isfinite(self.losses[-1] + float(logs.get("grad_norm", 0.0))):
            self.broken = control.should_training_stop = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the line on by an equal share of the rows."""
        rows, tokens = (total * state.global_step // state.max_steps for total in (self._rows, self._tokens))
        self._progress.advance(rows - self._told_rows, tokens - self._told_tokens)
        self._told_rows, self._told_tokens = rows, tokens

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say the mean loss of the epoch."""
        losses, self._epoch_start = self.losses[self._epoch_start :], len(self.losses)
        if losses:
            epoch = f"{round(state.epoch or 0, 2):g} of {round(args.num_train_epochs, 2):g}"
            self._progress.note(f"epoch {epoch}: mean loss {sum(losses) / len(losses):.4f}")


class TimedSteps(Steps):
    """As `Steps` without a word; `seconds` are those of all steps together, loading and preparation left out."""

    def __init__(self) -> None:
        super().__init__(NoProgress(), 0, 0)
        self.seconds = 0.0
        self._started = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop it; the last step's loss was logged before, for which the device had to finish."""
        self.seconds = time.perf_counter() - self._started
