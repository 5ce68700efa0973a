"""The token budget of a pass: as given, a constant on a CPU, and what the memory allows on a GPU.

A measured budget is kept beside the gradients, so that an interrupted run continues with the same batches.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from spice_select.amounts import GIB
from spice_select.config import RunConfig
from spice_select.files.locks import make_once
from spice_select.gradients.capture import captured
from spice_select.gradients.loss import TokenRow, collate, response_losses
from spice_select.proxy.lora import TOKENS_OF_A_PASS, Proxy

MOST_TOKENS = 65_536
"""Larger passes are no quicker."""

USED = 0.8
"""Part of the free memory that passes may take, less held gradients; the rest is what the allocator wastes."""

LESS_AT_ONCE = "Use a machine with more memory, or `run --overwrite` with a lower --batch-tokens or --max-length."
"""What helps where memory has no room for a pass over rows that no checkpoint keeps."""

FILE = "batch_tokens.json"
"""Where a measured budget is kept."""


class _AllTrained:
    """The first tokens of a row, all of them trained: the most memory that so many tokens can need."""

    def __init__(self, row: TokenRow, tokens: int) -> None:
        self.input_ids: npt.NDArray[np.int32] = row.input_ids[:tokens]
        self.trained: npt.NDArray[np.bool_] = np.arange(len(self.input_ids)) > 0


def with_batch_tokens(proxy: Proxy, config: RunConfig, examples: Sequence[TokenRow], directory: Path | None) -> Proxy:
    """`proxy` with the token budget of `config`.

    A measurement runs the longest of `examples`. One process measures and keeps the number in `directory`, where all
    find it, now and later; None keeps nothing.
    """
    if isinstance(config.batch_tokens, int):
        return replace(proxy, batch_tokens=config.batch_tokens)
    if proxy.device.type != "cuda":
        return replace(proxy, batch_tokens=TOKENS_OF_A_PASS)
    held = int(config.gradient_memory * GIB) if config.candidates != "all" else 0

    def measure() -> bytes:
        return json.dumps({"batch_tokens": _measured(proxy, examples, held)}).encode()

    content = measure() if directory is None else make_once(directory / FILE, measure)
    return replace(proxy, batch_tokens=int(json.loads(content)["batch_tokens"]))


def fitting_budget(small: tuple[int, int], large: tuple[int, int], room: int) -> int:
    """The largest power of two of tokens that fits into `room` bytes, at most `MOST_TOKENS`.

    `small` and `large` are padded tokens of a pass and the bytes it took; memory is taken to grow linearly.
    """
    if large[0] <= small[0]:  # a single row of one token: all its memory may grow
        return fitting_budget((0, 0), large, room)
    per_token = max(1.0, (large[1] - small[1]) / (large[0] - small[0]))
    fixed = max(0.0, small[1] - per_token * small[0])
    tokens = int(min(MOST_TOKENS, max(1.0, (USED * room - fixed) / per_token)))
    return 1 << (tokens.bit_length() - 1)


def _measured(proxy: Proxy, examples: Sequence[TokenRow], held_bytes: int) -> int:
    lengths = np.array([len(row.input_ids) for row in examples])
    longest = int(lengths.max())
    most = max(1, TOKENS_OF_A_PASS // longest)
    order: list[int] = np.argsort(-lengths, kind="stable").tolist()
    rows = [examples[place] for place in order[:most]]
    torch.cuda.empty_cache()
    room = torch.cuda.mem_get_info(proxy.device)[0] - held_bytes
    small = _bytes_of(proxy, [_AllTrained(rows[0], max(1, longest // 2))])
    large = _bytes_of(proxy, [_AllTrained(row, longest) for row in rows])
    torch.cuda.empty_cache()
    return fitting_budget(small, large, room)


def _bytes_of(proxy: Proxy, rows: Sequence[_AllTrained]) -> tuple[int, int]:
    """Padded tokens of one pass over `rows`, and the memory it takes beside what is held anyway."""
    before = torch.cuda.memory_allocated(proxy.device)
    torch.cuda.reset_peak_memory_stats(proxy.device)
    batch = collate(rows, proxy.device)
    if not proxy.layers:  # a model for states, or losses, alone
        with torch.inference_mode():
            response_losses(proxy.model, batch)
        return batch.input_ids.numel(), torch.cuda.max_memory_allocated(proxy.device) - before
    with captured(proxy.layers, len(rows), lambda _name, _gradients: None):
        response_losses(proxy.model, batch).sum().backward()
    return batch.input_ids.numel(), torch.cuda.max_memory_allocated(proxy.device) - before
