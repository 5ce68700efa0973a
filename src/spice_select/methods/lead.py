"""LEAD (Lin et al., 2025, arXiv 2505.07437): rows are chosen round by round by a model that trains on them meanwhile.

Rows are clustered by instruction-following difficulty, and a bandit, EXP3, draws a cluster each round. Of each source
in it the rows of highest utility are trained on; rows that were trained on are the choice. A row's utility is its
loss, less the drop that is expected of the round's training:

    dL = eta |b v_c + (1 - b) v_p|^2,  the b that makes this least,
       = eta (b^2 d_c + (1 - b)^2 d_p + 2 b (1 - b) a),  a = sqrt(d_c d_p) cos phi,  b = (d_p - a) / (d_c + d_p - 2 a)
       = eta (d_c d_p - a^2) / (d_c + d_p - 2 a)

where d_c is the loss drop at the cluster's first visit, d_p that of the round before, phi the angle between the changes
of the weights in these two rounds and eta the learning rate. At a cluster's first visit dL = eta d_p.

The mathematics takes a `Learner`, so it needs no model.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from spice_select.constants import Lead

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOST_STEPS = 300
"""Of k-means, as libraries have it; it ends of itself long before."""
GRID = float(1 << 16)
"""Losses are rounded to 1 / this, so that copies of a row tie, and the lower wins, whatever batches they were in."""
FINE_GRID = 2.0**40
"""The same of expected drops, so that sums and differences of utilities are exact, whatever their order."""


class Learner(Protocol):
    """The model that trains while rows are chosen."""

    def losses(self, rows: Sequence[int]) -> Sequence[float]:
        """Mean response loss of each of the rows by the model as it is; those not finite cannot be chosen."""
        ...

    def train(self, rows: Sequence[int]) -> Tensor:
        """One pass of training over the rows, in the order given; how the weights changed, [P]."""
        ...


@dataclass(frozen=True, slots=True)
class Round:
    """The cluster that was drawn, its rows that are trained on, and those of them that were in no round before."""

    cluster: int
    rows: list[int]
    new: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """Mean loss drop of a round's rows by its training, and the change of the weights [P]."""

    drop: float
    change: Tensor


def clusters_of(difficulties: Sequence[float], count: int) -> Ints:
    """The cluster of each row, [n], by k-means of its difficulty; rows without a difficulty, NaN, form one more."""
    values = np.array(difficulties, dtype=np.float64)
    known = np.isfinite(values)
    labels = np.zeros(len(values), dtype=np.int64)
    if known.any():
        labels[known] = kmeans(values[known], count)
        labels[~known] = labels[known].max() + 1
    return labels


def kmeans(values: Floats, count: int) -> Ints:
    """The cluster of each of n >= 1 finite values, [n], numbered from the lowest, by Lloyd's algorithm.

    It starts from quantiles of the different values, so that no seed enters; equal values share a cluster.
    """
    distinct = np.unique(values)
    centres = distinct if len(distinct) <= count else np.quantile(distinct, (np.arange(count) + 0.5) / count)
    for _ in range(MOST_STEPS):
        labels = _nearest(centres, values)
        means = np.bincount(labels, values) / np.bincount(labels)
        if np.array_equal(means, centres):
            break
        centres = means
    return _nearest(centres, values)


def _nearest(centres: Floats, values: Floats) -> Ints:
    """Of each value the number of the nearest of ascending `centres`; centres without values are not counted."""
    places = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
    return np.unique(places, return_inverse=True)[1]


def probabilities(log_weights: Floats, exploration: float) -> Floats:
    """EXP3's p = (1 - g) w / sum w + g / k of k clusters, from the logarithms of their weights."""
    weights = np.exp(log_weights - log_weights.max())
    return (1 - exploration) * weights / weights.sum() + exploration / len(weights)


def scaled(reward: float, earlier: Sequence[float]) -> float:
    """`reward` scaled to [-1, 1] by the lowest and highest so far, itself among them; 0 where these are equal."""
    low, high = min([reward, *earlier]), max([reward, *earlier])
    return 2 * (reward - low) / (high - low) - 1 if high > low else 0.0


def expected_drop(first: Update | None, previous: Update | None, rate: float) -> float:
    """The dL above; 0 in the first round of all, which has none before."""
    if previous is None:
        return 0.0
    if first is None:
        return rate * previous.drop
    a = math.sqrt(first.drop * previous.drop) * cosine(first.change, previous.change)
    width, lower = first.drop + previous.drop - 2 * a, min(first.drop, previous.drop)
    least = (first.drop * previous.drop - a * a) / width if width > 0 else lower
    return rate * max(0.0, min(least, lower))  # b = 0 and b = 1 give the two drops, so only rounding exceeds them


def cosine(one: Tensor, other: Tensor) -> float:
    """Of the angle between two changes; 0 where one is none."""
    one, other = one.double(), other.double()
    lengths = math.sqrt(float(one @ one) * float(other @ other))
    return max(-1.0, min(1.0, float(one @ other) / lengths)) if lengths > 0 else 0.0


def best_of_sources(rows: Ints, sources: Ints, utilities: Floats, share: float) -> Ints:
    """Of each source the `share` of highest utility among `rows`, at least one; by utility, ties to the lower row.

    `sources` and `utilities` are [n], of all rows.
    """
    ordered = rows[np.lexsort((rows, -utilities[rows], sources[rows]))]
    _, firsts, sizes = np.unique(sources[ordered], return_index=True, return_counts=True)
    wanted = np.maximum(1, np.floor(sizes * share + 1e-9))
    taken = ordered[np.arange(len(ordered)) - np.repeat(firsts, sizes) < np.repeat(wanted, sizes)]
    return taken[np.lexsort((taken, -utilities[taken]))]


@dataclass(slots=True, eq=False)
class _State:
    utilities: Floats  # [n]
    log_weights: Floats  # of the clusters, of EXP3
    rewards: list[float] = field(default_factory=list[float])
    firsts: dict[int, Update] = field(default_factory=dict[int, Update])  # of each cluster that was visited
    previous: Update | None = None


def rounds(
    clusters: Ints, sources: Ints, losses: Sequence[float], learner: Learner, rate: float, seed: int, constants: Lead
) -> Iterator[Round]:
    """Rounds until no row is left. A round's rows are trained on when the next is asked for: the last need not be.

    Args:
        clusters: of each row, [n], from 0.
        sources: of each row, [n], numbered.
        losses: of the rows by the model before any training, [n]; rows whose loss is not finite are never chosen.
        learner: measures and trains on the rows of each round.
        rate: eta, the learning rate.
        seed: of the bandit's draws.
        constants: of the method.

    """
    utilities = rounded(losses)
    uses = np.where(np.isfinite(utilities), 0, constants.most_uses)
    state = _State(utilities, np.zeros(int(clusters.max()) + 1))
    generator = np.random.default_rng([seed, 3])
    while len(left := np.flatnonzero(uses < constants.most_uses)):
        arms = np.unique(clusters[left])
        chances = probabilities(state.log_weights[arms], constants.exploration)
        place = min(int(np.searchsorted(chances.cumsum(), generator.random(), side="right")), len(arms) - 1)
        cluster = int(arms[place])
        rows = best_of_sources(left[clusters[left] == cluster], sources, utilities, constants.share)
        found = rounded(learner.losses(rows.tolist()))
        finite = np.isfinite(found)
        uses[rows[~finite]] = constants.most_uses
        taken = rows[finite]
        new = taken[uses[taken] == 0].tolist()
        uses[taken] += 1
        yield Round(cluster, taken.tolist(), new)
        if len(taken):
            reward = _learn(state, cluster, taken, found[finite], learner, rate)
            gain = constants.exploration * scaled(reward, state.rewards) / (len(arms) * chances[place])
            state.log_weights[cluster] += gain
            state.rewards.append(reward)


def rounded(losses: Sequence[float]) -> Floats:
    """Losses on the grid."""
    return np.round(np.array(losses, dtype=np.float64) * GRID) / GRID


def _learn(state: _State, cluster: int, rows: Ints, before: Floats, learner: Learner, rate: float) -> float:
    """Train on a round's rows and update their utilities; the round's reward, by how much these fell in the mean."""
    expected = round(expected_drop(state.firsts.get(cluster), state.previous, rate) * FINE_GRID) / FINE_GRID
    change = learner.train(rows.tolist())
    drops = before - rounded(learner.losses(rows.tolist()))
    known = drops[np.isfinite(drops)]
    # A loss that rises counts as no drop: the formula takes the root of drops.
    state.previous = Update(max(0.0, float(known.mean())) if len(known) else 0.0, change)
    state.firsts.setdefault(cluster, state.previous)
    reward = float(np.mean(state.utilities[rows] - (before - expected)))
    state.utilities[rows] = before - expected
    return reward
