"""Processes of one launch that work together, through torch.distributed; a single process does not touch it."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from spice_select.errors import ProcessError
from spice_select.information.ranks import ALONE, Ranks
from spice_select.launch import process_count, process_rank

PATIENCE = timedelta(hours=6)
"""How long a process waits for another that is still at work; one that has died is noticed at once."""


@contextmanager
def joined_processes() -> Generator[Ranks]:
    """Meet the other processes of this launch for the block; alone where there are none.

    Raises:
        ProcessError: they cannot be met, or one ended while another needed it.

    """
    if process_count() == 1:
        yield ALONE
        return
    own_group = not dist.is_initialized()
    if own_group:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        _together(lambda: dist.init_process_group(backend, timeout=PATIENCE))
    try:
        yield TorchRanks()
    finally:
        if own_group:
            dist.destroy_process_group()


class TorchRanks:
    """`Ranks` over torch.distributed's default group, and what else processes tell each other."""

    def __init__(self) -> None:
        """Join the group that is there."""
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def largest(self, value: float) -> float:
        """As `Ranks.largest`."""
        return float(self._reduced(torch.tensor(value, dtype=torch.float64), dist.ReduceOp.MAX))

    def lowest(self, value: int) -> int:
        """As `Ranks.lowest`."""
        return int(self._reduced(torch.tensor(value), dist.ReduceOp.MIN))

    def add_up(self, tensor: Tensor) -> Tensor:
        """As `Ranks.add_up`."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def join(self, part: Tensor) -> Tensor:
        """As `Ranks.join`."""
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(part)
        sizes = self.add_up(sizes)
        padded = part.new_zeros(int(sizes.max()), *part.shape[1:])
        padded[: len(part)] = part
        found = [torch.empty_like(padded) for _ in range(self.size)]
        _together(lambda: cast(Any, dist).all_gather(found, padded))
        return torch.cat([other[: int(size)] for other, size in zip(found, sizes, strict=True)])

    def spread(self, tensor: Tensor, owner: int) -> Tensor:
        """As `Ranks.spread`."""
        result = tensor.contiguous()
        _together(lambda: cast(Any, dist).broadcast(result, owner))
        return result

    @staticmethod
    def _reduced(tensor: Tensor, operation: Any) -> Tensor:
        result = tensor.contiguous()
        _together(lambda: cast(Any, dist).all_reduce(result, operation))
        return result


def texts_of_all(ranks: Ranks, own: str) -> list[str]:
    """Everyone's text, in order of rank."""
    raw = own.encode()
    sizes = ranks.join(torch.tensor([len(raw)]))
    joined = ranks.join(torch.frombuffer(bytearray(raw) or bytearray(1), dtype=torch.uint8)[: len(raw)])
    ends = [int(end) for end in sizes.cumsum(0)]
    whole = bytes(cast(list[int], joined.tolist()))
    return [whole[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]


def wait_for_all(ranks: Ranks) -> None:
    """Go on when every process has come to this point."""
    ranks.lowest(0)


def _together(call: Callable[[], object]) -> None:
    try:
        call()
    except (RuntimeError, ValueError) as error:  # torch.distributed raises both, with its backends' own texts
        raise ProcessError(
            f"process {process_rank()} of {process_count()} lost the others ({str(error).splitlines()[0]:.120}).\n"
            "What ended first says why, above; give the same command again, with --resume for a run."
        ) from error
