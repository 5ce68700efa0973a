"""The proxy's training between pools: AdamW on the LoRA factors over the picks, linear rise of the rate, no dropout."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from spice_select.gradients.loss import TokenRow, collate, response_losses
from spice_select.information.ranks import ALONE, Ranks
from spice_select.proxy.lora import Proxy

MAX_GRADIENT_NORM = 1.0


@dataclass(slots=True)
class ProxyOptimizer:
    """AdamW with a linear rise of the learning rate; `steps` counts optimizer steps since the start of the run."""

    proxy: Proxy
    learning_rate: float
    lr_warmup_steps: int
    adamw: torch.optim.AdamW
    steps: int = 0

    @classmethod
    def create(cls, proxy: Proxy, learning_rate: float, lr_warmup_steps: int) -> "ProxyOptimizer":
        """A fresh optimizer over the proxy's factors."""
        weights = [layer.weight for layer in proxy.factors.values()]
        return cls(
            proxy,
            learning_rate,
            lr_warmup_steps,
            torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0),
        )

    def train_on(self, rows: Sequence[TokenRow], batch_size: int, ranks: Ranks = ALONE) -> list[float]:
        """One pass over `rows` in the order given, `batch_size` rows a step.

        The loss of a step is the mean over its rows of each row's own mean response loss, whatever the micro-batches
        and however many processes share them; all end with the same weights.

        Returns:
            The loss of each step.

        """
        with trainable(self.proxy):
            starts = range(0, len(rows), batch_size)
            losses = [self._step(rows[start : start + batch_size], ranks) for start in starts]
        with torch.no_grad():
            for layer in self.proxy.factors.values():  # sums may round otherwise on another kind of processor
                layer.weight.copy_(ranks.spread(layer.weight.detach(), 0))
        return losses

    def _step(self, rows: Sequence[TokenRow], ranks: Ranks) -> float:
        own = rows[ranks.rank :: ranks.size]
        total = torch.zeros((), dtype=torch.float64)
        for micro in self.proxy.batches([len(row.input_ids) for row in own]):
            batch = collate([own[i] for i in micro], self.proxy.device)
            loss = response_losses(self.proxy.model, batch).sum() / len(rows)
            loss.backward()
            total += loss.detach().cpu()
        if ranks.size > 1:
            self._sum_gradients(ranks)
        self.steps += 1
        rate = self.learning_rate * min(1.0, self.steps / max(1, self.lr_warmup_steps))
        for group in self.adamw.param_groups:
            group["lr"] = rate
        weights = [layer.weight for layer in self.proxy.factors.values()]
        torch.nn.utils.clip_grad_norm_(weights, MAX_GRADIENT_NORM)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return float(ranks.add_up(total))

    def _sum_gradients(self, ranks: Ranks) -> None:
        weights = [layer.weight for layer in self.proxy.factors.values()]
        own = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        summed = ranks.add_up(torch.cat([gradient.flatten() for gradient in own]))
        start = 0
        for weight in weights:
            weight.grad = summed[start : start + weight.numel()].view_as(weight)
            start += weight.numel()

    def state(self) -> dict[str, Tensor]:
        """Factors and moments by name, for `restore`."""
        tensors = {f"weight.{name}": layer.weight.detach() for name, layer in self.proxy.factors.items()}
        for name, layer in self.proxy.factors.items():
            moments = self.adamw.state.get(layer.weight, {})
            tensors |= {f"{key}.{name}": value.detach() for key, value in moments.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Put back what `state` gave."""
        self.steps = steps
        for name, layer in self.proxy.factors.items():
            with torch.no_grad():
                layer.weight.copy_(tensors[f"weight.{name}"])
            moments = {
                key: tensors[f"{key}.{name}"].to(layer.weight.device if key != "step" else "cpu")
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in tensors
            }
            if moments:
                self.adamw.state[layer.weight] = moments


@contextmanager
def trainable(proxy: Proxy) -> Generator[None]:
    """Within the context autograd computes the factors' gradients; outside, capture does that job per sample."""
    for layer in proxy.factors.values():
        layer.weight.requires_grad_(True)
    try:
        yield
    finally:
        for layer in proxy.factors.values():
            layer.weight.requires_grad_(False)
