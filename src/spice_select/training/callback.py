"""What a training reports while it runs: the loss of every step, and progress for people."""

# The Trainer defines the signatures.
# ruff: noqa: ARG002

import math
from typing import Any

from transformers import TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Arguments

from spice_select.progress import Progress


class Steps(TrainerCallback):
    """Collects the loss of each optimizer step, reports progress, and stops a training that diverges."""

    def __init__(self, progress: Progress, rows: int, tokens: int) -> None:
        """`rows` and `tokens` are those of all epochs together."""
        self.losses: list[float] = []  # of each step, in nats per trained token
        self.diverged = False  # the loss of the last step, or the norm of its gradient, is not finite
        self._progress, self._rows, self._tokens = progress, rows, tokens
        self._epoch_start = 0

    def on_train_begin(self, args: Arguments, state: State, control: Control, **kwargs: Any) -> None:
        """Start the progress line."""
        self._progress.note(f"{state.max_steps:,} optimizer steps")
        self._progress.begin("fine-tuning", self._rows, self._tokens)

    def on_log(
        self, args: Arguments, state: State, control: Control, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Keep the loss; the Trainer logs every step, and at the end a summary without `loss`."""
        if logs is None or "loss" not in logs:
            return
        self.losses.append(float(logs["loss"]))
        if not math.isfinite(self.losses[-1] + float(logs.get("grad_norm", 0.0))):
            self.diverged = control.should_training_stop = True

    def on_step_end(self, args: Arguments, state: State, control: Control, **kwargs: Any) -> None:
        """Advance the progress line by an equal share of rows and tokens."""
        step, steps = state.global_step, state.max_steps
        rows, tokens = (n * step // steps - n * (step - 1) // steps for n in (self._rows, self._tokens))
        self._progress.advance(rows, tokens)

    def on_epoch_end(self, args: Arguments, state: State, control: Control, **kwargs: Any) -> None:
        """Report the mean loss of the epoch."""
        losses, self._epoch_start = self.losses[self._epoch_start :], len(self.losses)
        if losses:
            epoch = f"{round(state.epoch or 0, 2):g} of {round(args.num_train_epochs, 2):g}"
            self._progress.note(f"epoch {epoch}: mean loss {sum(losses) / len(losses):.4f}")
