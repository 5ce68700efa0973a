"""What a selection may hold: so many rows, so many rows of each group, or so much cost.

Contract: pure bookkeeping. A row that may not be picked at some point never may again, so rows are closed for good.
With floors and ceilings by group, the selections that can still be completed are the independent sets of a matroid.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spice_select.information.certificate import guarantee_factor
from spice_select.information.checks import SelectionInputError

CloseAfter = Callable[[int | None], Tensor | None]
"""Call it with None before the first pick, then with each pick: it returns rows to close (int64), or None."""


class Limit:
    """A limit on the selection among n rows; without more, on their number."""

    most: int
    """The most rows that a selection can hold."""
    weights: Tensor | None = None
    """The lowest cost over each row's, [n] in (0, 1], with which `priorities` weighs scores; None is 1."""

    def start(self) -> CloseAfter:
        """Begin a selection."""
        return lambda _: None

    def largest_sum(self, gains: Tensor, count: int) -> float:
        """The largest sum of gains [n], all >= 0, over `count` rows (or fewer) within the limit."""
        return float(gains.topk(min(count, len(gains)), sorted=False).values.sum())

    def guarantee(self, curvature: float) -> float:
        """The share of the highest U within the limit that greedy picks with penalty 0 hold: here Theorem 3's."""
        return guarantee_factor(curvature)

    def as_much(self, picks: Sequence[int], order: Tensor) -> Tensor:
        """The first rows of `order` [n] that amount to as much as `picks`: here to as many rows."""
        return order[: len(picks)]

    def as_large(self, picks: Sequence[int]) -> "Limit":
        """A limit on the size alone, to that of `picks`."""
        return RowLimit(len(picks))


@dataclass(frozen=True)
class RowLimit(Limit):
    """At most `most` rows."""

    most: int


@dataclass(frozen=True, eq=False)
class GroupLimit(Limit):
    """`most` rows, of each group no fewer than its floor and no more than its ceiling."""

    most: int
    groups: Tensor  # [n] int64, the group of each row
    floors: list[int]
    ceilings: list[int]

    def __post_init__(self) -> None:
        """Raise `SelectionInputError` where no selection can satisfy the limit."""
        sizes = [int(size) for size in torch.bincount(self.groups, minlength=len(self.floors))]
        for group, (floor, ceiling, size) in enumerate(zip(self.floors, self.ceilings, sizes, strict=True)):
            if not 0 <= floor <= ceiling:
                raise SelectionInputError(
                    f"group {group}: floor {floor}, ceiling {ceiling}; need 0 <= floor <= ceiling."
                )
            if floor > size:
                raise SelectionInputError(f"group {group}: floor {floor}, but it has {size} rows; lower the floor.")
        room = sum(min(ceiling, size) for ceiling, size in zip(self.ceilings, sizes, strict=True))
        if not sum(self.floors) <= self.most <= room:
            raise SelectionInputError(
                f"{self.most} rows are wanted, but the floors need {sum(self.floors)} and the ceilings leave {room}."
            )

    def start(self) -> CloseAfter:
        """As `Limit.start`: a group is closed at its ceiling, or at its floor once floors need every row left."""
        counts, closed = [0] * len(self.floors), set[int]()

        def close_after(row: int | None) -> Tensor | None:
            if row is not None:
                counts[int(self.groups[row])] += 1
            needed = sum(max(0, floor - count) for floor, count in zip(self.floors, counts, strict=True))
            highest = self.floors if needed >= self.most - sum(counts) else self.ceilings
            full = {group for group, most in enumerate(highest) if counts[group] >= most} - closed
            if not full:
                return None
            closed.update(full)
            return torch.isin(self.groups, torch.tensor(list(full), device=self.groups.device)).nonzero().squeeze(1)

        return close_after

    def largest_sum(self, gains: Tensor, count: int) -> float:
        """As `Limit.largest_sum`: every group's floor, then the best of what the ceilings leave.

        Fewer rows than `most` are part of a selection, and need not hold any floor yet.
        """
        total, rest = 0.0, [gains[:0]]
        floors = self.floors if count == self.most else [0] * len(self.floors)
        for group, (floor, ceiling) in enumerate(zip(floors, self.ceilings, strict=True)):
            members = gains[self.groups == group]
            best = members.topk(min(ceiling, len(members))).values
            total += float(best[:floor].sum())
            rest.append(best[floor:])
        return total + super().largest_sum(torch.cat(rest), count - sum(floors))

    def guarantee(self, curvature: float) -> float:
        """1 / (1 + c): the greedy picks of a matroid (Conforti and Cornuejols 1984)."""
        return 1.0 / (1.0 + curvature)


@dataclass(frozen=True, eq=False)
class CostLimit(Limit):
    """Rows that together cost at most `budget`; a score counts per unit of cost, the lowest cost being the unit.

    Attributes:
        costs: [n] float64, each > 0.
        budget: at least the lowest cost.

    """

    costs: Tensor
    budget: float
    most: int = field(init=False)
    weights: Tensor | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raise `SelectionInputError` where not one row fits."""
        if not bool((self.costs > 0).all()):
            raise SelectionInputError("costs must all be above 0; drop the rows that cost nothing.")
        ascending = self.costs.sort().values
        if float(ascending[0]) > self.budget:
            raise SelectionInputError(
                f"budget is {self.budget:g}, but the cheapest row costs {float(ascending[0]):g}; raise it."
            )
        object.__setattr__(self, "most", int((ascending.cumsum(0) <= self.budget).sum()))
        object.__setattr__(self, "weights", ascending[0] / self.costs)

    def start(self) -> CloseAfter:
        """As `Limit.start`: rows close that cost more than what is left."""
        left = self.budget

        def close_after(row: int | None) -> Tensor | None:
            nonlocal left
            left -= 0.0 if row is None else float(self.costs[row])
            rows = (self.costs > left).nonzero().squeeze(1)
            return rows if len(rows) else None

        return close_after

    def largest_sum(self, gains: Tensor, count: int) -> float:
        """As `Limit.largest_sum`, the last row taken in part; `count` does not matter, the budget does."""
        del count
        order = (gains / self.costs).argsort(descending=True)
        gains, costs = gains[order], self.costs[order]
        left = (self.budget - (costs.cumsum(0) - costs)).clamp(min=0.0)  # before each row
        return float((gains * (left / costs).clamp(max=1.0)).sum())

    def guarantee(self, curvature: float) -> float:
        """1 - 1 / sqrt(e): the better of picks by score per cost and the best single row (Tang et al. 2021)."""
        del curvature
        return 1.0 - math.exp(-0.5)

    def as_much(self, picks: Sequence[int], order: Tensor) -> Tensor:
        """As `Limit.as_much`: each row in turn that still fits into the cost of `picks`."""
        left, fitting = float(self.costs[list(picks)].sum()), [order[:0]]
        while len(order := order[self.costs[order] <= left]):
            spent = self.costs[order].cumsum(0)
            count = int((spent <= left).sum())
            fitting.append(order[:count])
            left, order = left - float(spent[count - 1]), order[count:]
        return torch.cat(fitting)

    def as_large(self, picks: Sequence[int]) -> Limit:
        """As `Limit.as_large`: to the cost of `picks`."""
        return CostLimit(self.costs, float(self.costs[list(picks)].sum()))


def priorities(scores: Tensor, weights: Tensor | None) -> Tensor:
    """Scores [b] weighed by cost, rising in the score and falling in the cost; `weights` as in `Limit`.

    A score above 0 counts per cost. One below 0 counts the more, the dearer its row: up to twice.
    """
    return scores if weights is None else torch.where(scores < 0, 2.0 - weights, weights) * scores
