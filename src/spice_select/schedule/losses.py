"""A response's loss after its prompt and alone, which instruction-following difficulty compares."""

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from spice_select.gradients.loss import TokenRow, collate, response_losses
from spice_select.pool.examples import Example
from spice_select.proxy.lora import Proxy


class ResponseAlone:
    """An example without its prompt; its first token has nothing before it and is no target."""

    def __init__(self, example: Example) -> None:
        self.input_ids: npt.NDArray[np.int32] = example.input_ids[example.trained]
        self.trained: npt.NDArray[np.bool_] = np.arange(len(self.input_ids)) > 0


def two_losses(rows: Sequence[Example], proxy: Proxy) -> list[tuple[float, float]]:
    """Mean NLL of each response after its prompt, and alone: NaN for one of one token, infinite where not finite."""
    alone = [ResponseAlone(row) for row in rows]
    after_prompt, by_itself = _losses(rows, proxy), _losses(alone, proxy)
    return [
        (one, math.nan if len(row.input_ids) <= 1 else other if math.isfinite(other) else math.inf)
        for one, other, row in zip(after_prompt, by_itself, alone, strict=True)
    ]


def _losses(rows: Sequence[TokenRow], proxy: Proxy) -> list[float]:
    with torch.no_grad():
        return cast("list[float]", response_losses(proxy.model, collate(rows, proxy.device)).tolist())
