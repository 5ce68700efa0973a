"""The greedy engine on features: it evaluates only rows that may be picked next. Several processes may share the rows.

Contract: the picks of evaluating every row at every step, in float64, by any number of processes. A row evaluated
earlier has an upper bound on its priority now: its gain only falls, and its conflict has fallen by no more than the
mean direction has turned. Rows whose bound reaches the best exact priority are evaluated, in blocks. An active
set of them is kept up to date; the others keep a bound. A pick takes three numbers of every process and the vectors of
one row from its owner.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor

from spice_select.information.features import FeatureRows, own_blocks
from spice_select.information.greedy import Pick, Ties
from spice_select.information.inverse import Inverse
from spice_select.information.limits import priorities
from spice_select.information.mean_direction import MeanDirection
from spice_select.information.moments import Moments, second_moment
from spice_select.information.ranks import own_range, owner_of

_FETCH = 64  # rows evaluated together, at least
_FETCH_MOST = 4096
_ACTIVE_BYTES = 2 << 20  # about what stays in a processor's cache
_ACTIVE_LEAST = 128


class _Candidate(NamedTuple):
    """A row about to be added: its gradient g [d], M g [d], gain, remainder g^T M g, and conflict with S."""

    vector: Tensor
    image: Tensor
    gain: float
    remainder: float
    conflict: float


class RowStates(NamedTuple):
    """Rows [b] at one step: row numbers, remainders g^T M g, products <g, sum of S>, norms |g|."""

    rows: Tensor
    remainders: Tensor
    products: Tensor
    norms: Tensor

    def at(self, places: Tensor) -> "RowStates":
        """The states at these places."""
        return RowStates(*(part[places] for part in self))


class ActiveSet:
    """Rows that may be picked next: their states and gradients [c, d], brought up to date after every pick."""

    def __init__(self, dim: int, device: torch.device):
        nothing = torch.zeros(0, dtype=torch.float64, device=device)
        self.states = RowStates(nothing.long(), nothing, nothing, nothing)
        self._vectors = torch.zeros(0, dim, dtype=torch.float64, device=device)

    def __len__(self) -> int:
        """How many rows are held, c."""
        return len(self._vectors)

    def add(self, states: RowStates, vectors: Tensor) -> None:
        """Hold these rows too, with their gradients [b, d]."""
        self.states = RowStates(*(torch.cat(pair) for pair in zip(self.states, states, strict=True)))
        self._vectors = torch.cat([self._vectors, vectors])

    def keep(self, places: Tensor) -> None:
        """Drop all rows but those at these places."""
        self.states, self._vectors = self.states.at(places), self._vectors[places]

    def update(self, w: Tensor, vector: Tensor) -> None:
        """Bring the states up to date after a pick with this gradient and its w (see `inverse`), [d] each."""
        products = torch.stack([w, vector]) @ self._vectors.T  # [2, c]
        remainders = (self.states.remainders - products[0].square()).clamp(min=0.0)
        self.states = self.states._replace(remainders=remainders, products=self.states.products + products[1])


class LazyEngine:
    """An `Engine` on n rows; this process holds a range of them, numbered from 0 within it."""

    def __init__(
        self,
        moments: Moments,
        alpha: float,
        penalty: float,
        capacity: int,
        weights: Tensor | None = None,
        given: FeatureRows | None = None,
    ):
        """Start with S empty, or with the `given` rows of the same d, which are no candidates.

        At most `capacity` rows will be added; `weights` [n] are those of `Limit`.
        """
        features, squared_norms, ranks = moments.features, moments.squared_norms, moments.ranks
        device, dim = features.device, features.dim
        self._features, self._alpha, self._penalty, self._ranks = features, alpha, penalty, ranks
        self._own = own_range(features.rows, ranks)
        own = slice(self._own.start, self._own.stop)
        self._largest = alpha * float(squared_norms.max())
        positive = squared_norms[squared_norms > 0]
        self._smallest_norm = float(positive.min().sqrt()) if len(positive) else 1.0
        self._direction = MeanDirection(dim, device)
        for _, block in () if given is None else own_blocks(given):
            self._direction.add(block)
        self._inverse = Inverse(dim, alpha, capacity, device, None if given is None else second_moment(given))
        self._active = ActiveSet(dim, device)
        self._room = max(_ACTIVE_LEAST, _ACTIVE_BYTES // (8 * max(1, dim)))
        self._norms = squared_norms[own].sqrt()
        self._weights = None if weights is None else weights[own].to(device)
        self._closed = torch.zeros_like(self._norms, dtype=torch.bool)
        # The last known remainder of every row outside the active set, and the bounds on its priority that follow.
        self._remainders = squared_norms[own].clone()
        self._since = torch.full_like(self._norms, 0 if given is None else -1, dtype=torch.int64)
        # -inf for rows in the active set and closed ones
        self._by_gain = priorities(torch.log1p(alpha * self._remainders), self._weights)
        self._by_conflict = torch.full_like(self._norms, torch.inf)  # of the score, before reach is added
        self._highest, self._highest_reach = torch.inf, 0.0

    def best_row(self) -> int | None:
        """As `Engine.best_row`."""
        ties = Ties(self._largest, self._penalty)
        ties.offer(self._active.states.rows, *self._priorities(self._active.states))
        size, dropped = _FETCH, list[RowStates]()
        while len(rows := self._doubtful(ties.floor, size)):
            states = self._activate(rows)
            ties.offer(rows, *self._priorities(states))
            if len(self._active) > self._room:
                dropped.append(self._drop_lowest())
            size = min(2 * size, _FETCH_MOST)
        for states in dropped:
            self._put_back(states)
        return ties.lowest(self._ranks, self._own.start)

    def take(self, row: int, least_gain: float) -> Pick | None:
        """As `Engine.take`."""
        candidate = self._candidate(row)
        if candidate.gain <= least_gain:
            return None
        w = self._inverse.add(candidate.image, candidate.remainder)
        self._direction.add(candidate.vector[None])
        self._active.update(w, candidate.vector)
        if row in self._own:
            self._close(row - self._own.start)
        return Pick(row, candidate.gain, candidate.conflict)

    def close(self, rows: Tensor) -> None:
        """As `Engine.close`."""
        self._close(rows[(rows >= self._own.start) & (rows < self._own.stop)] - self._own.start)

    def _close(self, rows: Tensor | int) -> None:
        self._closed[rows] = True
        self._by_gain[rows] = -torch.inf

    def _candidate(self, row: int) -> _Candidate:
        """What it takes to add `row`, as its owner computes it: all processes must stop at the same pick."""
        own = self._own_candidate(row) if row in self._own else None
        if own is not None and self._ranks.size == 1:
            return own
        dim, device = self._features.dim, self._features.device
        if own is None:
            packed = torch.empty(2 * dim + 3, dtype=torch.float64, device=device)
        else:
            packed = torch.cat([own.vector, own.image, own.vector.new_tensor(own[2:])])
        packed = self._ranks.broadcast(packed, owner_of(row, self._features.rows, self._ranks))
        return _Candidate(packed[:dim], packed[dim : 2 * dim], *cast("list[float]", packed[2 * dim :].tolist()))

    def _own_candidate(self, row: int) -> _Candidate:
        vector = self._features.take(torch.tensor([row], device=self._features.device))[0]
        image = self._inverse.times(vector)
        remainder = max(0.0, float(vector @ image))
        norm = self._norms[row - self._own.start, None]
        conflict = float(self._direction.conflicts((vector @ self._direction.sum)[None], norm))
        return _Candidate(vector, image, math.log1p(self._alpha * remainder), remainder, conflict)

    def _priorities(self, states: RowStates) -> tuple[Tensor, Tensor]:
        """Exact priorities of rows evaluated at this step, -inf for closed ones, and conflicts."""
        conflicts = self._direction.conflicts(states.products, states.norms)
        scores = torch.log1p(self._alpha * states.remainders) - self._penalty * conflicts
        ordered = priorities(scores, self._weights_of(states.rows))
        return ordered.masked_fill_(self._closed[states.rows], -torch.inf), conflicts

    def _weights_of(self, rows: Tensor) -> Tensor | None:
        return None if self._weights is None else self._weights[rows]

    def _reach(self) -> float:
        """How far conflicts may have fallen since the start, in units of the score."""
        return self._penalty * (self._direction.path + self._direction.allowance(self._smallest_norm))

    def _bounds(self, reach: float) -> Tensor:
        """Upper bounds [n] on the priorities of rows outside the active set; -inf for the others."""
        return torch.minimum(self._by_gain, priorities(self._by_conflict + reach, self._weights))

    def _doubtful(self, floor: float, size: int) -> Tensor:
        """The `size` rows outside the active set with the highest bounds if the highest reaches `floor`, else none."""
        reach = self._reach()
        steepest = 1.0 if self._weights is None else 2.0  # most by which a priority rises with its score
        if self._highest + steepest * max(0.0, reach - self._highest_reach) < floor:
            return self._active.states.rows[:0]
        bounds = self._bounds(reach)
        values, rows = bounds.topk(min(size + 1, len(bounds)))
        count = int((values[:size] > -torch.inf).sum()) if len(values) and float(values[0]) >= floor else 0
        self._highest = float(values[count]) if count < len(values) else -torch.inf
        self._highest_reach = reach
        return rows[:count]

    def _activate(self, rows: Tensor) -> RowStates:
        vectors = self._features.take(rows + self._own.start)
        remainders = self._inverse.remainders(vectors, self._remainders[rows], self._since[rows])
        states = RowStates(rows, remainders, vectors @ self._direction.sum, self._norms[rows])
        self._active.add(states, vectors)
        self._by_gain[rows] = -torch.inf
        return states

    def _drop_lowest(self) -> RowStates:
        order = self._priorities(self._active.states)[0].argsort(descending=True)
        kept = self._room // 2
        dropped = self._active.states.at(order[kept:])
        self._active.keep(order[:kept])
        return dropped

    def _put_back(self, states: RowStates) -> None:
        """Let rows wait outside the active set, with bounds from their states at this step."""
        rows = states.rows
        self._remainders[rows], self._since[rows] = states.remainders, self._inverse.count
        gains = torch.log1p(self._alpha * states.remainders)
        opposition = self._direction.opposition(states.products, states.norms)
        self._by_gain[rows] = torch.where(self._closed[rows], -torch.inf, priorities(gains, self._weights_of(rows)))
        self._by_conflict[rows] = gains - self._penalty * (opposition + self._direction.path)
        self._highest = max(self._highest, float(self._bounds(self._reach())[rows].max()))
