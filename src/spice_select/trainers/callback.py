"""When a Trainer begins, saves and ends: what was chosen goes into its checkpoints, and comes back from them.

The picks are in `trainer_state.json`, under `stateful_callbacks`, beside the state that they belong to.
"""

# The Trainer defines the signatures.
# ruff: noqa: ARG002

from typing import Any, Protocol, cast

from transformers import TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Arguments

from spice_select.errors import ConfigError
from spice_select.trainers.record import Chosen

NAME = "SelectingSampler"


class Selecting(Protocol):
    """What the Trainer's events are passed on to."""

    chosen: Chosen
    epoch: int

    def __len__(self) -> int:
        """Batches of an epoch."""
        ...

    def begin(self, chosen: Chosen | None) -> None:
        """A training starts; `chosen` is what its checkpoint holds, None where there is none."""
        ...

    def finish(self) -> None:
        """A training has ended."""
        ...


class Recorder(TrainerCallback):
    """Passes the Trainer's events on."""

    def __init__(self, sampler: Selecting) -> None:
        self._sampler = sampler

    def on_train_begin(self, args: Arguments, state: State, control: Control, **kwargs: Any) -> None:
        """Take over the picks of the checkpoint, and have the Trainer save all that are made from now on."""
        chosen: Chosen | None = None
        if state.global_step > 0:
            saved = cast("dict[str, Any]", state.stateful_callbacks).get(NAME)
            if not isinstance(saved, dict):
                raise ConfigError(
                    f"this checkpoint, of step {state.global_step}, was not written by a training with "
                    f"{NAME}, so its order is not known.\nResume one that was, or start without a checkpoint."
                )
            chosen = saved["attributes"]["chosen"]
        self._sampler.begin(chosen)
        kept = {"args": {}, "attributes": {"chosen": self._sampler.chosen}}
        cast("dict[str, Any]", state.stateful_callbacks)[NAME] = kept

    def on_epoch_begin(self, args: Arguments, state: State, control: Control, **kwargs: Any) -> None:
        """Tell the sampler which epoch it is asked for."""
        steps = -(-len(self._sampler) // args.gradient_accumulation_steps)  # as the Trainer counts them
        self._sampler.epoch = state.global_step // steps

    def on_train_end(self, args: Arguments, state: State, control: Control, **kwargs: Any) -> None:
        """Finish the record."""
        self._sampler.finish()
