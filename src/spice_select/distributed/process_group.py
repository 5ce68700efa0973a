"""The processes of one launch work together through torch.distributed; a single process does not use it."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from spice_select.distributed.launch import local_count, process_count, process_rank
from spice_select.errors import REPEAT, ProcessError
from spice_select.information.ranks import ALONE, Ranks

_operations = cast(Any, dist)  # partly untyped

PATIENCE = timedelta(hours=6)
"""How long a process waits for another that is still computing; one that has died is noticed at once."""


@contextmanager
def process_group() -> Generator[Ranks]:
    """Join the other processes of this launch for the block, if there are any. All of them must call it.

    GPUs talk by NCCL where each process of a host has one of its own; everything else goes through gloo. Raises
    `ProcessError` if they cannot be reached, or one ended while another needed it.
    """
    if process_count() == 1:
        yield ALONE
        return
    owner = not dist.is_initialized()
    own_gpu = torch.cuda.is_available() and local_count() <= torch.cuda.device_count()
    nccl = owner and own_gpu and dist.is_nccl_available()
    if owner:
        backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
        _checked(dist.init_process_group, backend, timeout=PATIENCE)
    try:
        # A script's own group may lack a CPU backend and this timeout.
        yield _TorchRanks(None if owner else _operations.new_group(backend="gloo", timeout=PATIENCE), direct=nccl)
    finally:
        if owner:
            dist.destroy_process_group()


class _TorchRanks(Ranks):
    """`Ranks` over a group of torch.distributed."""

    def __init__(self, group: Any, *, direct: bool) -> None:
        """Join `group` (None: the default one); `direct` sends GPU tensors without a copy on the CPU."""
        self._group, self._direct = group, direct
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def all_reduce_max(self, value: float) -> float:
        return float(self._reduced(torch.tensor(value, dtype=torch.float64), dist.ReduceOp.MAX))

    def all_reduce_min(self, value: int) -> int:
        return int(self._reduced(torch.tensor(value), dist.ReduceOp.MIN))

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def all_gather(self, part: Tensor) -> Tensor:
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(part)
        sizes = self.all_reduce_sum(sizes)
        own = self._sent(part)
        padded = own.new_zeros(int(sizes.max()), *own.shape[1:])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in range(self.size)]
        _checked(_operations.all_gather, found, padded, group=self._group)
        return torch.cat([other[: int(size)] for other, size in zip(found, sizes, strict=True)]).to(part.device)

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        result = self._sent(tensor)
        _checked(_operations.broadcast, result, owner, group=self._group)
        return result.to(tensor.device)

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        result = self._sent(tensor)
        _checked(_operations.all_reduce, result, operation, group=self._group)
        return result.to(tensor.device)

    def _sent(self, tensor: Tensor) -> Tensor:
        return (tensor if self._direct else tensor.cpu()).contiguous()


def all_gather_texts(ranks: Ranks, own: str) -> list[str]:
    """Everyone's text, in order of rank."""
    raw = torch.tensor(list(own.encode()), dtype=torch.uint8)
    sizes = cast("list[int]", ranks.all_gather(torch.tensor([len(raw)])).tolist())
    return [bytes(cast("list[int]", text.tolist())).decode() for text in torch.split(ranks.all_gather(raw), sizes)]


def barrier(ranks: Ranks) -> None:
    """Return when every process has called this."""
    ranks.all_reduce_min(0)


def _checked(operation: Callable[..., object], *arguments: Any, **options: Any) -> None:
    try:
        operation(*arguments, **options)
    except (RuntimeError, ValueError) as error:  # torch.distributed raises both
        raise ProcessError(
            f"process {process_rank()} of {process_count()} lost the connection to the other processes "
            f"({str(error).splitlines()[0]:.120}).\nCorrect the error of the process that ended first, then {REPEAT}."
        ) from error
