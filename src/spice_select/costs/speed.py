"""How long a pass over a batch takes, from a few that were timed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = Sequence[int]

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

    def __call__(self, lengths: Sequence[int], trained: int) -> float:
        """Cost of a batch of rows with `lengths` tokens, `trained` of them trained in all."""
        width = max(lengths)
        return len(lengths) * width * (self.token + self.pair * width) + trained * self.trained


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a pass: `per_pass` + cost * `per_cost`."""

    per_pass: float
    per_cost: float

    def seconds(self, costs: Sequence[float]) -> float:
        """Time of one pass for each of `costs`."""
        return self.per_pass * len(costs) + self.per_cost * sum(costs)


def measure_speed(
    run: Callable[[Batch], None], batches: Sequence[Batch], cost: Callable[[Batch], float], device: torch.device
) -> Speed:
    """Run the largest batch, then time it and smaller ones.

    Args:
        run: one pass over a batch.
        batches: at least one; the largest should be among them.
        cost: of a batch, in any unit.
        device: where it runs.

    """
    ordered = sorted(batches, key=cost, reverse=True)
    run(ordered[0])  # touches memory for the first time, and compiles kernels
    _wait(device)
    costs: list[float] = []
    seconds: list[float] = []
    for place in _timed_places(len(ordered)):
        started = time.perf_counter()
        run(ordered[place])
        _wait(device)
        costs.append(cost(ordered[place]))
        seconds.append(time.perf_counter() - started)
    return fit(costs, seconds)


def timed_share(batches: Sequence[Batch], cost: Callable[[Batch], float]) -> float:
    """Which part of a pass over all `batches`, at least one, `measure_speed` takes."""
    costs = sorted(map(cost, batches), reverse=True)
    return (costs[0] + sum(costs[place] for place in _timed_places(len(costs)))) / sum(costs)


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
