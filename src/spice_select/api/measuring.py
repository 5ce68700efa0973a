"""What a forecast measures: seconds of a few batches, and memory."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from spice_select.proxy.lora import Proxy

Text = TypeVar("Text")

TIMED = 3
"""Batches, or optimizer steps, that are timed."""

ENOUGH = 5.0
"""Seconds after which no further batch is timed."""

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""A container's own memory limit, by either version of Linux control groups."""


def measure(
    examples: Sequence[Text],
    lengths: Sequence[int],
    proxy: Proxy,
    groups: Iterable[Sequence[int]],
    run: Callable[[Sequence[Text]], object],
) -> tuple[float, int, int]:
    """Time `run` on a few of the batches of the `groups` of rows, `examples` of `lengths` tokens.

    Returns:
        Seconds of `run` per padded token, padded tokens of all batches, and peak memory in bytes.

    """
    cuts = [(rows, proxy.batches([lengths[row] for row in rows])) for rows in groups]
    batches = [[rows[place] for place in batch] for rows, cut in cuts for batch in cut]
    sizes = [len(batch) * max(lengths[row] for row in batch) for batch in batches]
    largest_first = sorted(range(len(batches)), key=lambda i: -sizes[i])

    def seconds_of(batch: Sequence[int]) -> float:
        started = time.perf_counter()
        run([examples[row] for row in batch])
        if proxy.device.type == "cuda":
            torch.cuda.synchronize(proxy.device)
        return time.perf_counter() - started

    timed = spread(largest_first, TIMED)
    # What starts up is not timed: kernels everywhere, on a GPU memory for the largest batch too.
    seconds_of(batches[timed[0 if proxy.device.type == "cuda" else -1]])
    spent, tokens = 0.0, 0
    for i in timed:
        if spent < ENOUGH or not tokens:
            spent, tokens = spent + seconds_of(batches[i]), tokens + sizes[i]
    return spent / tokens, sum(sizes), peak_memory(proxy.device)


def spread(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of `items` at even distances, the first and the last among them."""
    last = len(items) - 1
    return [items[place] for place in sorted({round(i * last / max(1, count - 1)) for i in range(count)})]


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process, or on a GPU its tensors, have held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def available_memory(device: torch.device) -> int:
    """The most bytes that this process can hold: what a GPU has left, else all of the machine or its container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    limits = [int(text) for path in _LIMITS if path.exists() and (text := path.read_text().strip()).isdigit()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])
