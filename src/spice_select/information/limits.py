"""What a selection may hold: so many rows, so many rows of each group, or so much cost.

Contract: pure bookkeeping. A row that may not be picked any more never may again, so rows are closed for good. With
floors and ceilings by group, the selections that can still be completed are the independent sets of a matroid.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from spice_select.information.validation import SelectionInputError


class Allowance(Protocol):
    """What may still be picked while a selection is under way."""

    @property
    def done(self) -> bool:
        """Whether nothing more may be picked."""
        ...

    def take(self, row: int) -> Tensor | None:
        """Pick `row`; returns rows that may not be picked from now on (int64), or None."""
        ...


class Limit(Protocol):
    """A limit on n rows."""

    @property
    def most(self) -> int:
        """The most rows that a selection can hold."""
        ...

    @property
    def weights(self) -> Tensor | None:
        """Factor [n] in (0, 1] that turns a score into a priority; None is 1."""
        ...

    def start(self) -> tuple[Allowance, Tensor | None]:
        """What may be picked at first, and the rows that never may."""
        ...

    def largest_sum(self, gains: Tensor, count: int) -> float:
        """The largest sum of gains [n], all >= 0, over `count` rows (or fewer) within the limit."""
        ...


@dataclass
class _Count:
    left: int

    @property
    def done(self) -> bool:
        return self.left == 0

    def take(self, row: int) -> Tensor | None:
        del row
        self.left -= 1
        return None


@dataclass(frozen=True)
class RowLimit:
    """At most `most` rows."""

    most: int
    weights: None = None

    def start(self) -> tuple[Allowance, Tensor | None]:
        """As `Limit.start`."""
        return _Count(self.most), None

    def largest_sum(self, gains: Tensor, count: int) -> float:
        """As `Limit.largest_sum`."""
        return float(gains.topk(min(count, len(gains))).values.sum())


@dataclass(frozen=True, eq=False)
class GroupLimit:
    """`most` rows, of each group no fewer than its floor and no more than its ceiling.

    Attributes:
        most: rows in all.
        groups: [n] int64, the group of each row.
        floors: rows of each group at least.
        ceilings: rows of each group at most.

    """

    most: int
    groups: Tensor
    floors: list[int]
    ceilings: list[int]
    weights: None = None

    def __post_init__(self) -> None:
        """Raise `SelectionInputError` where no selection can satisfy the limit."""
        sizes = self._sizes()
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

    def start(self) -> tuple[Allowance, Tensor | None]:
        """As `Limit.start`."""
        allowance = _Groups(self, self.most, [0] * len(self.floors))
        return allowance, allowance.closed_at_first()

    def largest_sum(self, gains: Tensor, count: int) -> float:
        """As `Limit.largest_sum`: every group's floor, then the best of what the ceilings leave."""
        total, rest = 0.0, [gains[:0]]
        for group, (floor, ceiling) in enumerate(zip(self.floors, self.ceilings, strict=True)):
            members = gains[self.groups == group]
            best = members.topk(min(ceiling, len(members))).values
            total += float(best[:floor].sum())
            rest.append(best[floor:])
        left = torch.cat(rest)
        return total + float(left.topk(min(max(0, count - sum(self.floors)), len(left))).values.sum())

    def _sizes(self) -> list[int]:
        return [int(size) for size in torch.bincount(self.groups, minlength=len(self.floors))]


@dataclass
class _Groups:
    limit: GroupLimit
    left: int
    counts: list[int]
    restricted: bool = False

    @property
    def done(self) -> bool:
        return self.left == 0

    def closed_at_first(self) -> Tensor | None:
        full = [group for group, ceiling in enumerate(self.limit.ceilings) if ceiling == 0]
        return self._rows(full + self._without_need())

    def take(self, row: int) -> Tensor | None:
        group = int(self.limit.groups[row])
        self.left -= 1
        self.counts[group] += 1
        floor, ceiling = self.limit.floors[group], self.limit.ceilings[group]
        full = self.counts[group] == ceiling or (self.restricted and self.counts[group] >= floor)
        return self._rows(([group] if full else []) + self._without_need())

    def _without_need(self) -> list[int]:
        """Once every row left is owed to a floor, the groups to which none is owed; at that step only."""
        owed = [max(0, floor - count) for floor, count in zip(self.limit.floors, self.counts, strict=True)]
        if self.restricted or sum(owed) < self.left:
            return []
        self.restricted = True
        return [group for group, need in enumerate(owed) if need == 0]

    def _rows(self, groups: list[int]) -> Tensor | None:
        if not groups:
            return None
        wanted = torch.tensor(groups, device=self.limit.groups.device)
        return torch.isin(self.limit.groups, wanted).nonzero().squeeze(1)


@dataclass(frozen=True, eq=False)
class CostLimit:
    """Rows that together cost at most `budget`; a score counts per unit of cost.

    Attributes:
        costs: [n] float64, each > 0.
        budget: at least the lowest cost.

    """

    costs: Tensor
    budget: float
    _sorted: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raise `SelectionInputError` where not one row fits."""
        if not bool((self.costs > 0).all()):
            raise SelectionInputError("costs must all be above 0; drop the rows that cost nothing.")
        object.__setattr__(self, "_sorted", self.costs.sort().values)
        if float(self._sorted[0]) > self.budget:
            raise SelectionInputError(
                f"budget is {self.budget:g}, but the cheapest row costs {float(self._sorted[0]):g}; raise it."
            )

    @property
    def most(self) -> int:
        """As `Limit.most`: how many of the cheapest rows fit."""
        return int((self._sorted.cumsum(0) <= self.budget).sum())

    @property
    def weights(self) -> Tensor:
        """As `Limit.weights`: the lowest cost over each row's."""
        return self._sorted[0] / self.costs

    def start(self) -> tuple[Allowance, Tensor | None]:
        """As `Limit.start`."""
        allowance = _Cost(self.costs, self.budget)
        return allowance, allowance.too_dear()

    def largest_sum(self, gains: Tensor, count: int) -> float:
        """As `Limit.largest_sum`, the last row taken in part; `count` does not matter, the budget does."""
        del count
        order = (gains / self.costs).argsort(descending=True)
        spent = self.costs[order].cumsum(0)
        whole = spent <= self.budget
        total = float(gains[order][whole].sum())
        if bool(whole.all()):
            return total
        first = int((~whole).nonzero()[0])
        before = float(spent[first - 1]) if first else 0.0
        return float(gains[order][:first].sum()) + (self.budget - before) * float((gains / self.costs)[order[first]])


@dataclass
class _Cost:
    costs: Tensor
    left: float

    @property
    def done(self) -> bool:
        return False  # nothing affordable is open any more when the budget is spent

    def take(self, row: int) -> Tensor | None:
        self.left -= float(self.costs[row])
        return self.too_dear()

    def too_dear(self) -> Tensor | None:
        rows = (self.costs > self.left).nonzero().squeeze(1)
        return rows if len(rows) else None
