"""When a Trainer begins, starts an epoch and ends: what was chosen goes into its checkpoints, and comes back from them.

The picks are in `trainer_state.json`, under `stateful_callbacks`, beside the state that they belong to.
"""

# The Trainer defines the signatures.
# ruff: noqa: ARG002

from collections.abc import Callable
from typing import Any, cast

from transformers import TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Arguments

from spice_select.errors import ConfigError
from spice_select.trainers.record import Chosen

NAME = "SelectingSampler"


class Recorder(TrainerCallback):
    """Passes the Trainer's events on."""

    def __init__(
        self, begin: Callable[[Chosen | None], Chosen], at_step: Callable[[int], None], finish: Callable[[], None]
    ) -> None:
        """`begin` receives what the checkpoint holds, None without one, and returns the picks that are saved from then.

        `at_step` receives the optimizer steps that are done when an epoch starts.
        """
        self._begin, self._at_step, self._finish = begin, at_step, finish

    def on_train_begin(self, args: Arguments, state: State, control: Control, **kwargs: Any) -> None:
        """Take over the picks of the checkpoint, and have the Trainer save all that are made from now on."""
        kept, found = cast("dict[str, Any]", state.stateful_callbacks), None
        if state.global_step > 0:
            found = kept.get(NAME)
            if not isinstance(found, dict):
                raise ConfigError(
                    f"this checkpoint, of step {state.global_step}, was not written by a training with {NAME}.\n"
                    "Resume one that was, or start without a checkpoint."
                )
        chosen = None if found is None else cast(Any, found)["attributes"]["chosen"]
        kept[NAME] = {"args": {}, "attributes": {"chosen": self._begin(chosen)}}

    def on_epoch_begin(self, args: Arguments, state: State, control: Control, **kwargs: Any) -> None:
        """Tell where the training is."""
        self._at_step(state.global_step)

    def on_train_end(self, args: Arguments, state: State, control: Control, **kwargs: Any) -> None:
        """Finish the record."""
        self._finish()
