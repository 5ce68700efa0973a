"""The rows that each of several takers likes best, and takers that take turns until a limit is reached.

Contract: rows are read in blocks; a few values are held for each taker and each of the rows that it is asked for.
The same rows by any number of processes: scores are rounded to 2^-30, and the lower of equal ones wins.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor

from spice_select.information import FeatureRows, Limit
from spice_select.information.features import own_blocks
from spice_select.information.greedy import Pick, greedy
from spice_select.information.ranks import ALONE, Ranks, own_range

HELD = 1 << 23
"""Pairs of a taker and a row whose scores are held at once; where there are more, only the best of each taker."""

_GRID, _ROWS = 1 << 30, 1 << 31  # steps of a score in [-1, 1] per unit; more rows than any pool has

Score = Callable[[Tensor], Tensor]
"""Rows [b, d] -> how much each of s takers likes them, [s, b] in [-1, 1]."""


def _nothing(_: object) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Aim:
    """Rows to choose among, for targets, within a limit.

    Attributes:
        features: n x d, of any length: only directions count.
        targets: of each target its rows, [t, d].
        limit: on the rows picked.
        seed: of the run, for methods that draw.
        constants: of the method, where they differ from its defaults.
        ranks: the processes that share the rows.
        on_pick: receives the number of picks made.
        note: receives what the user should know of the choice.

    """

    features: FeatureRows
    targets: Sequence[Tensor]
    limit: Limit
    seed: int = 0
    constants: Mapping[str, float] = field(default_factory=dict[str, float])
    ranks: Ranks = ALONE
    on_pick: Callable[[int], None] = _nothing
    note: Callable[[str], None] = _nothing

    @property
    def directions(self) -> list[Tensor]:
        """The unit rows of each target, without rows of length zero, and without targets that have no other."""
        found = [rows[(rows != 0).any(dim=1)].double() for rows in self.targets]
        return [rows / cast(Tensor, rows.norm(dim=1, keepdim=True)) for rows in found if len(rows)]


def cosines(rows: Tensor, directions: Tensor) -> Tensor:
    """Cosines [t, b] of rows [b, d] with unit vectors [t, d]; 0 for a row of length zero."""
    lengths = cast(Tensor, rows.norm(dim=1))
    return torch.where(lengths > 0, (directions @ rows.T) / lengths, 0.0).clamp(-1.0, 1.0)


def best_rows(aim: Aim, score: Score, most: int, closed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The `most` rows that each of s takers likes best, or all that are not `closed` [n]: rows and scores, [s, c]."""
    features, ranks, device = aim.features, aim.ranks, aim.features.device
    shut = torch.zeros(features.rows, dtype=torch.bool) if closed is None else closed
    count, shut, first = min(most, int((~shut).sum())), shut.to(device), own_range(features.rows, ranks).start
    nothing = score(features.block(0, 0))
    keys, scores = [nothing.long()], [nothing]
    for places, block in own_blocks(features, ranks):
        found = score(block)
        rows = torch.arange(first + places.start, first + places.stop, device=device)
        ordered = ((found + 1.0) * _GRID).round().long() * _ROWS + (_ROWS - 1 - rows)
        keys.append(ordered.masked_fill_(shut[rows], -1))
        scores.append(found)
        if sum(part.shape[1] for part in keys) >= 2 * count:
            keys, scores = ([part] for part in _highest(torch.cat(keys, 1), torch.cat(scores, 1), count))
    own = _highest(torch.cat(keys, 1), torch.cat(scores, 1), count)
    theirs, values = (ranks.all_gather(part.T.contiguous()).T for part in own)
    ordered, found = _highest(theirs, values, count)
    return _ROWS - 1 - ordered % _ROWS, found


def _highest(keys: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    best = keys.topk(min(count, keys.shape[1]), dim=1)
    return best.values, scores.gather(1, best.indices)


def take_turns(aim: Aim, rankings: Callable[[Tensor], Tensor]) -> list[int]:
    """Takers take turns, each its best row that is left and that the limit allows, until the limit is reached.

    `rankings` gets which rows are closed, [n], and returns the best rows of each of s takers that are open, [s, c]; it
    is called again where a taker has no open row of these left.
    """
    engine = _Turns(aim.features.rows, rankings)
    return greedy(engine, aim.limit, on_pick=aim.on_pick).rows


class _Turns:
    """An `Engine` of takers that take turns; gains and conflicts are not used."""

    def __init__(self, rows: int, rankings: Callable[[Tensor], Tensor]) -> None:
        self._closed, self._rankings, self._turn = np.zeros(rows, dtype=bool), rankings, 0
        self._renew()

    def best_row(self) -> int | None:
        """As `Engine.best_row`: the best open row of the taker whose turn it is."""
        if self._closed.all():
            return None
        row = self._next_open()
        if row is None:
            self._renew()
            row = self._next_open()
        return row

    def take(self, row: int, least_gain: float) -> Pick | None:
        """As `Engine.take`."""
        del least_gain
        self._closed[row] = True
        self._turn += 1
        return Pick(row, 0.0, 0.0)

    def close(self, rows: Tensor) -> None:
        """As `Engine.close`."""
        self._closed[rows.cpu().numpy()] = True

    def _renew(self) -> None:
        self._lists = self._rankings(torch.from_numpy(self._closed)).cpu().numpy()
        self._places = [0] * len(self._lists)

    def _next_open(self) -> int | None:
        taker = self._turn % len(self._lists)
        ranking, place = self._lists[taker], self._places[taker]
        while place < len(ranking) and self._closed[ranking[place]]:
            place += 1
        self._places[taker] = place
        return int(ranking[place]) if place < len(ranking) else None
