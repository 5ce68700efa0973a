"""Exact greedy selection that looks only at rows which may be picked next.

Contract: the same picks as evaluating every row at every step, in float64. A row seen earlier has an upper bound on its
priority now: its gain only falls, and its conflict has fallen by no more than the mean direction has turned. Rows whose
bound reaches the best exact priority are looked at, in blocks; a frontier of them is kept up to date, the rest waits.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spice_select.information.direction import MeanDirection
from spice_select.information.engine import Taken, Ties
from spice_select.information.features import FeatureRows, block_bounds
from spice_select.information.frontier import Frontier, Seen
from spice_select.information.inverse import Inverse
from spice_select.information.survey import second_moment

_FETCH = 64  # rows looked at together, at least
_FETCH_MOST = 4096
_FRONTIER_BYTES = 2 << 20  # about what stays in a processor's cache
_FRONTIER_LEAST = 128


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row about to be added: its gradient [d], M g [d], remainder g^T M g, and conflict with S."""

    vector: Tensor
    image: Tensor
    remainder: float
    conflict: float


class LazyGreedy:
    """Priorities of n rows with respect to a growing S: (gain - penalty * conflict) * weight."""

    def __init__(
        self,
        features: FeatureRows,
        squares: Tensor,
        alpha: float,
        penalty: float,
        capacity: int,
        largest_base: float,
        weights: Tensor | None = None,
    ):
        """Start with S empty.

        Args:
            features: n rows of d numbers.
            squares: [n] |g|^2.
            alpha: absolute.
            penalty: lambda.
            capacity: the most rows that will be added.
            largest_base: the largest D_x(empty); it sets how wide a tie is.
            weights: [n] in (0, 1], for example 1 / cost; None is 1 everywhere.

        """
        positive = squares[squares > 0]
        self.refreshed = 0
        """Rows looked at so far, those of `refresh_all` not counted."""
        self._features = features
        self.alpha, self._penalty, self._largest_base = alpha, penalty, largest_base
        self._norms = squares.sqrt()
        self._weighted = weights is not None
        self._weights = torch.ones_like(squares) if weights is None else weights
        self._inverse = Inverse(features.dim, alpha, capacity, features.device)
        smallest = float(positive.min().sqrt()) if len(positive) else 1.0
        self._direction = MeanDirection(features.dim, smallest, features.device)
        self._frontier = Frontier(features.dim, features.device)
        self._room = max(_FRONTIER_LEAST, _FRONTIER_BYTES // (8 * max(1, features.dim)))
        self._closed = torch.zeros(features.rows, dtype=torch.bool, device=features.device)
        # What was last seen of every row outside the frontier, and what that lets its priority be at most.
        self._remainders = squares.clone()
        self._since = torch.zeros(features.rows, dtype=torch.int64, device=features.device)
        self._by_gain = self._gains(squares) * self._weights  # -inf for rows in the frontier and closed ones
        self._by_conflict = torch.full_like(squares, torch.inf)  # to this, weight * reach is added
        self._highest, self._highest_reach = torch.inf, 0.0

    def start_from(self, given: FeatureRows) -> None:
        """Let S hold these rows (of the same d) before the first pick; they are no candidates."""
        for start, stop in block_bounds(given):
            block = given.block(start, stop)
            self._direction.add_many(block.sum(dim=0), len(block), float(block.square().sum()))
        self._inverse.start_from(second_moment(given))
        self._since.fill_(-1)

    @property
    def dim(self) -> int:
        """Numbers of a row, d."""
        return self._features.dim

    @property
    def device(self) -> torch.device:
        """Where rows are looked at."""
        return self._features.device

    @property
    def count(self) -> int:
        """Rows in S."""
        return self._inverse.count

    def best_row(self) -> int | None:
        """As `Engine.best_row`."""
        return self.best().winner()

    def best(self) -> Ties:
        """The highest priority among all open rows, exact, and the rows that reach it."""
        ties = Ties(self._largest_base, self._penalty)
        held = self._frontier
        ties.offer(held.rows, *self._priorities(held.seen))
        size = _FETCH
        passed: list[Seen] = []
        while len(rows := self._doubtful(ties.floor, size)):
            seen = self._look_at(rows)
            ties.offer(rows, *self._priorities(seen))
            passed += self._trim()
            size = min(2 * size, _FETCH_MOST)
        for seen in passed:
            self._put_back(seen)
        return ties

    def take(self, row: int, least_gain: float) -> Taken | None:
        """As `Engine.take`."""
        candidate = self.look(row)
        gain = math.log1p(self.alpha * candidate.remainder)
        if gain <= least_gain:
            return None
        self.add(candidate)
        self.close(row)
        return Taken(gain, candidate.conflict)

    def look(self, row: int) -> Candidate:
        """What it takes to add `row`, exact."""
        vector = self._features.take(torch.tensor([row], device=self._features.device))[0]
        image = self._inverse.times(vector)
        conflict = self._direction.conflict(float(vector @ self._direction.sum), float(self._norms[row]))
        return Candidate(vector, image, max(0.0, float(vector @ image)), conflict)

    def add(self, candidate: Candidate) -> None:
        """Add a row, of these features or of others, to S and bring the frontier up to date."""
        w = self._inverse.add(candidate.image, candidate.remainder)
        self._direction.add(candidate.vector)
        self._frontier.follow(w, candidate.vector)

    def close(self, rows: Tensor | int) -> None:
        """Leave these rows, or this one, out of all further choices."""
        self._closed[rows] = True
        self._by_gain[rows] = -torch.inf

    def refresh_all(self) -> tuple[Tensor, Tensor]:
        """Gain and conflict of every row now, [n] each; bounds are tightened on the way."""
        conflicts = torch.zeros_like(self._norms)
        for start, stop in block_bounds(self._features):
            rows = torch.arange(start, stop, device=self._features.device)
            seen = self._see(rows, self._features.block(start, stop))
            self._note(seen, self._by_gain[rows] > -torch.inf)
            conflicts[rows] = self._direction.conflicts(seen.products, seen.norms)
        self._highest = torch.inf
        return self._gains(self._remainders), conflicts

    def _gains(self, remainders: Tensor) -> Tensor:
        return torch.log1p(self.alpha * remainders)

    def _priorities(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Exact priorities of rows seen at this step, -inf for closed ones, and conflicts."""
        conflicts = self._direction.conflicts(seen.products, seen.norms)
        scores = self._gains(seen.remainders) - self._penalty * conflicts
        if self._weighted:
            scores *= self._weights[seen.rows]
        return scores.masked_fill_(self._closed[seen.rows], -torch.inf), conflicts

    def _reach(self) -> float:
        """How far conflicts may have fallen since the start, in units of the score."""
        return self._penalty * (self._direction.path + self._direction.allowance())

    def _doubtful(self, floor: float, size: int) -> Tensor:
        """The `size` rows outside the frontier with the highest bounds if the highest reaches `floor`, else none."""
        reach = self._reach()
        if self._highest + max(0.0, reach - self._highest_reach) < floor:
            return self._frontier.rows[:0]
        bounds = torch.minimum(self._by_gain, self._by_conflict + self._weights * reach)
        values, rows = bounds.topk(min(size + 1, len(bounds)))
        count = int((values[:size] > -torch.inf).sum()) if len(values) and float(values[0]) >= floor else 0
        self._highest = float(values[count]) if count < len(values) else -torch.inf
        self._highest_reach = reach
        return rows[:count]

    def _look_at(self, rows: Tensor) -> Seen:
        """Bring rows up to date and into the frontier."""
        vectors = self._features.take(rows)
        seen = self._see(rows, vectors)
        self._frontier.add(seen, vectors)
        self._by_gain[rows] = -torch.inf
        self.refreshed += len(rows)
        return seen

    def _see(self, rows: Tensor, vectors: Tensor) -> Seen:
        remainders = self._inverse.refreshed(vectors, self._remainders[rows], self._since[rows])
        return Seen(rows, remainders, vectors @ self._direction.sum, self._norms[rows])

    def _trim(self) -> list[Seen]:
        """Take the rows with the lowest priorities out of the frontier if there are too many."""
        if len(self._frontier.rows) <= self._room:
            return []
        order = self._priorities(self._frontier.seen)[0].argsort(descending=True)
        return [self._frontier.split(order, self._room // 2)]

    def _put_back(self, seen: Seen) -> None:
        """Let rows that left the frontier wait outside."""
        self._note(seen, ~self._closed[seen.rows])
        bounds = torch.minimum(self._by_gain, self._by_conflict + self._weights * self._reach())[seen.rows]
        self._highest = max(self._highest, float(bounds.max()))

    def _note(self, seen: Seen, outside: Tensor) -> None:
        """Write down what was seen at this step; `outside` [b]: the rows that may be fetched again."""
        self._remainders[seen.rows] = seen.remainders
        self._since[seen.rows] = self.count
        gains, weights = self._gains(seen.remainders), self._weights[seen.rows]
        opposition = self._direction.opposition(seen.products, seen.norms)
        known = gains - self._penalty * (opposition + self._direction.path)
        self._by_gain[seen.rows] = torch.where(outside, gains * weights, -torch.inf)
        self._by_conflict[seen.rows] = known * weights
