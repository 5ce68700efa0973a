"""The proxy's training between pools: AdamW on the LoRA factors over the picks, linear warm-up, no dropout."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from spice_select.errors import ModelError
from spice_select.gradients.finite import GRADIENT, LOSS
from spice_select.gradients.loss import TokenRow, collate, response_losses
from spice_select.information.ranks import ALONE, Ranks
from spice_select.proxy.lora import Proxy

MAX_GRADIENT_NORM = 1.0

OnBad = Callable[[Mapping[int, str]], None]
"""Receives the rows of a step, by place, that cannot be trained on, with the reason; none where only the step's sum
is not finite. It raises to stop the training, or returns to continue without those rows."""


def refuse(bad: Mapping[int, str]) -> None:
    """Stop the training: an `OnBad`. Raises `ModelError`."""
    rows = "; ".join(f"row {place}: {reason}" for place, reason in bad.items())
    raise ModelError(f"a training step of the proxy is not finite ({rows or 'the sum over its rows'}).")


class ProxyOptimizer:
    """AdamW with a linear warm-up of the learning rate; `steps` counts optimizer steps since the start of the run."""

    def __init__(self, proxy: Proxy, learning_rate: float, lr_warmup_steps: int) -> None:
        """Start over the proxy's factors."""
        self.proxy, self.learning_rate, self.lr_warmup_steps = proxy, learning_rate, lr_warmup_steps
        self.weights = {name: factor.weight for name, factor in proxy.factors.items()}
        self.adamw = torch.optim.AdamW(self.weights.values(), lr=learning_rate, weight_decay=0.0)
        self.steps = 0

    def train_on(
        self, rows: Sequence[TokenRow], batch_size: int, ranks: Ranks = ALONE, on_bad: OnBad = refuse
    ) -> list[float]:
        """One pass over `rows` in the order given, `batch_size` rows a step; returns the loss of each step not skipped.

        The loss of a step is the mean over its rows of each row's own mean response loss, whatever the micro-batches
        and however many processes share them; all end with the same weights.

        A step in which a loss or gradient is not finite changes nothing. `on_bad` receives its bad rows; unless it
        raises, the step is repeated without them, or skipped where no row is bad by itself.
        """
        with trainable(self.proxy):
            steps = (range(s, min(s + batch_size, len(rows))) for s in range(0, len(rows), batch_size))
            losses = [self._step({place: rows[place] for place in step}, ranks, on_bad) for step in steps]
        with torch.no_grad():
            for weight in self.weights.values():  # another kind of processor may round sums differently
                weight.copy_(ranks.broadcast(weight.detach(), 0))
        return [loss for loss in losses if loss is not None]

    def _step(self, rows: Mapping[int, TokenRow], ranks: Ranks, on_bad: OnBad) -> float | None:
        """One optimizer step on `rows`, by place; its loss, or None where it was skipped."""
        loss = self._backward([*rows.values()], ranks)
        norm = self._clip_gradients()
        if not ranks.all_reduce_min(int(math.isfinite(loss) and math.isfinite(norm))):
            self.adamw.zero_grad(set_to_none=True)
            bad = self._bad_among(rows, ranks)
            on_bad(bad)
            rest = {place: row for place, row in rows.items() if place not in bad}
            return self._step(rest, ranks, on_bad) if bad and rest else None
        self.steps += 1
        rate = self.learning_rate * min(1.0, self.steps / max(1, self.lr_warmup_steps))
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return loss

    def _bad_among(self, rows: Mapping[int, TokenRow], ranks: Ranks) -> dict[int, str]:
        """The rows whose own loss or gradient is not finite, by place, with the reason; each is computed alone."""
        flags = torch.zeros(len(rows), dtype=torch.int64)
        for number, row in enumerate(rows.values()):
            if number % ranks.size != ranks.rank:
                continue
            loss = response_losses(self.proxy.model, collate([row], self.proxy.device)).sum()
            if not math.isfinite(float(loss.detach())):
                flags[number] = 1
                continue
            loss.backward()
            flags[number] = 0 if math.isfinite(self._clip_gradients()) else 2
            self.adamw.zero_grad(set_to_none=True)
        reasons = {1: LOSS, 2: GRADIENT}
        flag_of_each = cast("list[int]", ranks.all_reduce_sum(flags).tolist())
        return {place: reasons[flag] for place, flag in zip(rows, flag_of_each, strict=True) if flag}

    def _clip_gradients(self) -> float:
        return float(torch.nn.utils.clip_grad_norm_(self.weights.values(), MAX_GRADIENT_NORM))

    def _backward(self, rows: Sequence[TokenRow], ranks: Ranks) -> float:
        """Set the weights' gradients to those of the step's loss, and return that loss; the same in all processes."""
        own = rows[ranks.rank :: ranks.size]
        total = torch.zeros((), dtype=torch.float64)
        for micro in self.proxy.batches([len(row.input_ids) for row in own]):
            batch = collate([own[i] for i in micro], self.proxy.device)
            loss = response_losses(self.proxy.model, batch).sum() / len(rows)
            loss.backward()
            total += loss.detach().cpu()
        if ranks.size > 1:
            self._sum_gradients(ranks)
        return float(ranks.all_reduce_sum(total))

    def _sum_gradients(self, ranks: Ranks) -> None:
        weights = [*self.weights.values()]
        own = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        summed = ranks.all_reduce_sum(torch.cat([gradient.flatten() for gradient in own]))
        for weight, part in zip(weights, torch.split(summed, [w.numel() for w in weights]), strict=True):
            weight.grad = part.view_as(weight)

    def state(self) -> dict[str, Tensor]:
        """Factors and moments by name, for `restore`."""
        tensors = {f"weight.{name}": weight.detach() for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            tensors |= {f"{key}.{name}": value.detach() for key, value in self.adamw.state.get(weight, {}).items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Put back what `state` gave."""
        self.steps = steps
        for name, weight in self.weights.items():
            with torch.no_grad():
                weight.copy_(tensors[f"weight.{name}"])
            moments = {
                key: tensors[f"{key}.{name}"].to(weight.device if key != "step" else "cpu")
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in tensors
            }
            if moments:
                self.adamw.state[weight] = moments


@contextmanager
def trainable(proxy: Proxy) -> Generator[None]:
    """Within the context autograd computes the factors' gradients; outside, `captured` takes them per sample."""
    for layer in proxy.factors.values():
        layer.weight.requires_grad_(True)
    try:
        yield
    finally:
        for layer in proxy.factors.values():
            layer.weight.requires_grad_(False)
