"""How long a pass over a batch takes, from a few that were timed."""

import math
import time
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from torch import nn

from spice_select.costs.memory import PeakMemory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = Sequence[int]


class CostRow(Protocol):
    """What the cost of a row depends on."""

    @property
    def input_ids(self) -> Sized:
        """Its tokens."""
        ...

    @property
    def trained_tokens(self) -> int:
        """How many of them are trained."""
        ...


TIMED = 3
"""Batches that are timed, from the largest to the smallest; the largest runs once more before, to warm up."""


@dataclass(frozen=True, slots=True)
class PassCost:
    """Multiplications of a forward pass: a padded token, a trained token (output layer), a pair of tokens of a row."""

    token: float
    trained: float
    pair: float

    @classmethod
    def of(cls, model: "PreTrainedModel") -> "PassCost":
        """Costs of `model`, from the sizes of its weights."""
        head = cast(nn.Linear, model.get_output_embeddings()).weight
        embedding = cast(nn.Embedding, model.get_input_embeddings()).weight
        tables = head.numel() + (0 if embedding is head else embedding.numel())
        config = cast(Any, model.config.get_text_config())
        body = sum(parameter.numel() for parameter in model.parameters()) - tables
        return cls(float(body), float(head.numel()), float(config.hidden_size * config.num_hidden_layers))

    def __call__(self, rows: Sequence[CostRow]) -> float:
        """Cost of one pass over `rows`."""
        width = max(len(row.input_ids) for row in rows)
        trained = sum(row.trained_tokens for row in rows)
        return len(rows) * width * (self.token + self.pair * width) + trained * self.trained


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a pass: `per_pass` + cost * `per_cost`."""

    per_pass: float
    per_cost: float

    def seconds(self, costs: Sequence[float]) -> float:
        """Time of one pass for each of `costs`."""
        return self.per_pass * len(costs) + self.per_cost * sum(costs)


def measure_speed(
    run: Callable[[Batch], None], batches: Sequence[Batch], costs: Sequence[float], device: torch.device
) -> Speed:
    """Run the largest batch, then time it and smaller ones.

    Args:
        run: one pass over a batch.
        batches: at least one.
        costs: of each batch, in any unit.
        device: where it runs.

    """
    order = sorted(range(len(batches)), key=lambda i: -costs[i])
    run(batches[order[0]])  # touches memory for the first time, and compiles kernels
    _wait(device)
    timed = [order[place] for place in _timed_places(len(order))]
    seconds: list[float] = []
    for i in timed:
        started = time.perf_counter()
        run(batches[i])
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return fit([costs[i] for i in timed], seconds)


def timed_share(costs: Sequence[float]) -> float:
    """Which part of a pass over batches of `costs`, at least one, `measure_speed` takes."""
    ordered = sorted(costs, reverse=True)
    return (ordered[0] + sum(ordered[place] for place in _timed_places(len(ordered)))) / sum(ordered)


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of one pass over every batch, and the most memory in bytes that one needs, with all that is held."""

    seconds: float
    memory: int


def measure_passes(
    model: "PreTrainedModel",
    examples: Sequence[CostRow],
    batches: Sequence[Batch],
    run: Callable[[Batch], None],
    worth: float = math.inf,
) -> Measured | None:
    """What one pass over each of `batches` takes, from a few of them.

    Args:
        model: that `run` runs.
        examples: all rows.
        batches: places of rows.
        run: one pass over a batch.
        worth: the part of all passes that those few may be.

    Returns:
        None where there is no batch, or those few would be more than `worth`.

    """
    pass_cost = PassCost.of(model)
    costs = [pass_cost([examples[i] for i in batch]) for batch in batches]
    if not costs or timed_share(costs) > worth:
        return None
    peak = PeakMemory(model.device)
    speed = measure_speed(run, batches, costs, model.device)
    return Measured(speed.seconds(costs), peak.bytes())


def _timed_places(batches: int) -> list[int]:
    """Which of so many batches, from the largest to the smallest, are timed."""
    return sorted({round(i * (batches - 1) / max(1, TIMED - 1)) for i in range(TIMED)})


def fit(costs: Sequence[float], seconds: Sequence[float]) -> Speed:
    """The speed nearest to `seconds` of passes of `costs`, by least squares, with neither part below zero."""
    x, y = np.array(costs), np.array(seconds)
    proportional = Speed(0.0, float(y.sum() / x.sum()))
    if len(x) < 2 or np.ptp(x) == 0:
        return proportional
    slope, intercept = np.polyfit(x, y, 1)
    if intercept < 0:
        return proportional
    return Speed(float(intercept), float(slope)) if slope > 0 else Speed(float(y.mean()), 0.0)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
