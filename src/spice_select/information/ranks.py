"""Several processes that make one selection together: which rows each holds, and the collective operations they need.

Contract: every process calls the same functions in the same order and gets the same answers. Each process reads one
run of neighbouring rows.
"""

from torch import Tensor


class Ranks:
    """The processes, numbered from 0; all of them call each method together. This class is a single process."""

    rank: int = 0
    size: int = 1

    def all_reduce_max(self, value: float) -> float:
        """The largest of all processes' values."""
        return value

    def all_reduce_min(self, value: int) -> int:
        """The smallest of all processes' values."""
        return value

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, which share one shape."""
        return tensor

    def all_gather(self, part: Tensor) -> Tensor:
        """The parts of all processes, concatenated in order of rank."""
        return part

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        """The owner's tensor; the others pass one of the same shape."""
        del owner
        return tensor


ALONE = Ranks()


def own_range(rows: int, ranks: Ranks) -> range:
    """The rows of this process among so many."""
    return range(rows * ranks.rank // ranks.size, rows * (ranks.rank + 1) // ranks.size)


def owner_of(row: int, rows: int, ranks: Ranks) -> int:
    """The process whose `own_range` holds this row."""
    return next(rank for rank in range(ranks.size) if row < rows * (rank + 1) // ranks.size)
