"""TSDS (Liu et al., NeurIPS 2024, arXiv 2410.11303): rows are drawn by optimal transport from the target to the pool.

The plan gamma [M, N], from M target rows with 1/M each to N pool rows, minimises

    alpha / C * sum of gamma_ij d_ij  +  (1 - alpha) * M * max of rho_j gamma_ij

with d the Euclidean distance of unit rows and rho_j how crowded row j is, so that copies of a row share what one would
get. A target row reaches its K = N / 10 nearest rows, at most `REACH`. The probability of row j is the sum of gamma_ij.

For a given maximum 1 / (M s), a target row fills its neighbours from the nearest on, each with w_j / (M s), where
w = 1 / rho, until its 1/M is spent. The plan is optimal at the s where the slopes of the two terms meet.
"""

import heapq
import math
from typing import NamedTuple, cast

import torch
from torch import Tensor

from spice_select.constants import Tsds
from spice_select.information import PartOfFeatures
from spice_select.information.features import own_blocks
from spice_select.methods.nearest import HELD, Aim, best_rows, cosines, take_turns

REACH, CROWD = 5000, 1000
"""The most neighbours of a target row, and the most rows that count in the density at one."""

_ROUNDING = 1e-12
_FIRST = 64  # neighbours of a target row whose density is computed at first
_BLOCK = 1024


class Spread(NamedTuple):
    """How target rows spread what they have: over `counts` [M] neighbours in full, each w / (M s), and the next."""

    counts: list[int]
    s: float


def pick(aim: Aim) -> list[int]:
    """Rows drawn without replacement with the probabilities of the plan, from the aim's seed, as the limit allows.

    Rows that no mass reaches have no probability: where the others are used up, the rows nearest to any target row
    follow, and a note says so.
    """
    targets = torch.cat(aim.directions)
    shares = probabilities(aim, targets)
    # Exponential arrivals at the rates p come in the order of such draws.
    arrivals = torch.empty_like(shares).exponential_(generator=torch.Generator().manual_seed(aim.seed)) / shares
    reached = int((shares > 0).sum())
    drawn, used = aim.ranks.broadcast(arrivals.argsort(), 0)[None, :reached], list[bool]()

    def rankings(closed: Tensor) -> Tensor:
        used.append(True)
        if len(used) == 1:
            return drawn
        aim.note(f"tsds: its transport plan reaches {reached:,} rows; the picks beyond are those nearest to the target")
        return best_rows(aim, lambda rows: cosines(rows, targets).amax(dim=0, keepdim=True), HELD, closed)[0]

    return take_turns(aim, rankings)


def probabilities(aim: Aim, targets: Tensor) -> Tensor:
    """The probability of each row, [n] with sum 1, for unit target rows [M, d]."""
    count, constants = aim.features.rows, Tsds.model_validate(aim.constants)
    rows, near = best_rows(aim, lambda block: cosines(block, targets), max(1, min(REACH, count // 10)))
    distances, fetched = (2.0 - 2.0 * near).sqrt().cpu(), _distinct(rows)
    densities = torch.full((count,), math.nan, dtype=torch.float64, device=rows.device)
    depth, plan = _FIRST, None
    weights = distances[:, :0]
    while plan is None:
        reached = _distinct(rows[:, :depth])
        new = reached[densities[reached].isnan()]
        densities[new] = aim.ranks.broadcast(density(aim, fetched, new, constants.sigma), 0)  # all must go equally deep
        weights = (1.0 / densities[rows[:, :depth]]).cpu()
        plan = spread(distances, weights, constants.alpha, constants.C)
        depth *= 4
    shares = torch.zeros(count, dtype=torch.float64)
    places = rows.cpu()
    for row, full in enumerate(plan.counts):
        own = weights[row, :full] / (len(targets) * plan.s)
        shares.index_add_(0, places[row, :full], own)
        rest = 1.0 / len(targets) - float(own.sum())
        if rest > _ROUNDING:
            shares[places[row, full]] += rest
    return aim.ranks.broadcast(shares / shares.sum(), 0)


def density(aim: Aim, fetched: Tensor, rows: Tensor, sigma: float) -> Tensor:
    """How crowded `rows` are: rho, the sum of max(0, 1 - |x - y|^2 / sigma^2) over the nearest of the rows `fetched`.

    A row counts itself. Rho is 1 where sigma is 0.
    """
    if sigma == 0 or not len(rows):
        return torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    most, found = max(1, min(CROWD, aim.features.rows // 10)), list[Tensor]()
    others = PartOfFeatures(aim.features, fetched)
    for start in range(0, len(rows), _BLOCK):
        vectors = aim.features.take(rows[start : start + _BLOCK])
        lengths = cast(Tensor, vectors.norm(dim=1, keepdim=True))
        units = torch.where(lengths > 0, vectors / lengths, 0.0)
        best = units[:, :0].T  # [c, b], the largest terms so far
        for _, block in own_blocks(others, aim.ranks):
            kernel = (1.0 - (2.0 - 2.0 * cosines(block, units).T) / sigma**2).clamp(min=0.0)
            best = _largest(torch.cat([best, kernel[(kernel > 0).any(dim=1)]]), most)
        found.append(_largest(aim.ranks.all_gather(best.contiguous()), most).sum(dim=0))
    return torch.cat(found).clamp(min=1.0)  # a row of length zero is no neighbour of itself


def _distinct(rows: Tensor) -> Tensor:
    return cast(Tensor, rows.unique())


def _largest(values: Tensor, count: int) -> Tensor:
    return values.topk(min(count, len(values)), dim=0).values if len(values) > count else values


def spread(distances: Tensor, weights: Tensor, alpha: float, scale: float) -> Spread | None:
    """The optimal spread over neighbours at `distances` [M, K], nearest first, with weights w = 1 / rho [M, k].

    None where the weights of more than k < K neighbours are needed.
    """
    reach, (near, known) = (
        distances.shape[1],
        (cast("list[list[float]]", part.tolist()) for part in (distances, weights)),
    )
    counts, costs, spent = [0] * len(near), [0.0] * len(near), [0.0] * len(near)  # spent: sum of d w over neighbours
    heap = [(own[0], row) for row, own in enumerate(known)]  # W of the neighbours up to the next one
    heapq.heapify(heap)
    total = 0.0
    while True:
        s, row = heapq.heappop(heap)
        full = counts[row] + 1
        spent[row] += near[row][full - 1] * known[row][full - 1]
        if full == reach:
            return Spread(counts, s)  # there is no further neighbour, so s cannot grow
        cost = near[row][full] * s - spent[row]
        total, costs[row] = total + cost - costs[row], cost
        if alpha / scale * total >= (1.0 - alpha) * len(near):
            return Spread(counts, s)
        if full == len(known[row]):
            return None
        counts[row] = full
        heapq.heappush(heap, (s + known[row][full], row))
