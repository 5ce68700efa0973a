"""Squared norms and the second moment of all rows, and what follows: principal directions, gains beside a set of rows.

Contract: exact in float64; a few values a row and d x d (or n x n, where that is smaller) in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from spice_select.information.certificate import last_gains
from spice_select.information.checks import SelectionInputError
from spice_select.information.features import FeatureRows, TensorFeatures, own_blocks
from spice_select.information.gram import Spectrum
from spice_select.information.inverse import shifted_cholesky
from spice_select.information.ranks import ALONE, Ranks, own_range

_STEPWISE = 1448  # selected rows up to which remainders are followed pick by pick, or d where that is more
_AT_ONCE = 1 << 21  # products with the selected rows that are held together


@dataclass(frozen=True, eq=False)
class Moments:
    """What follows from all rows of some features. All processes must ask for the same in the same order."""

    features: FeatureRows
    squared_norms: Tensor  # [n] |g|^2
    ranks: Ranks  # the processes that share the rows

    @property
    def by_rows(self) -> bool:
        """Whether `moment` is the Gram matrix, since there are fewer rows than dimensions."""
        return self.features.rows < self.features.dim

    @cached_property
    def moment(self) -> Tensor:
        """F = sum of g g^T [d, d], or where n < d the Gram matrix [n, n]: both have the same eigenvalues."""
        return self.gram if self.by_rows else second_moment(self.features, self.ranks)

    @cached_property
    def gram(self) -> Tensor:
        """Inner products of all rows, [n, n]."""
        return self._each_row(lambda block: torch.cat([block @ other.T for _, other in own_blocks(self.features)], 1))

    @cached_property
    def spectrum(self) -> Spectrum:
        """Eigenvalues of `moment`, ascending and >= 0, and its eigenvectors.

        One process computes them: eigenvectors of equal eigenvalues may differ from one processor to another.
        """
        values, vectors = self.moment.new_zeros(len(self.moment)), torch.zeros_like(self.moment)
        if self.ranks.rank == 0:
            values, vectors = cast(tuple[Tensor, Tensor], torch.linalg.eigh(self.moment))
        return Spectrum(self.ranks.broadcast(values.clamp(min=0.0), 0), self.ranks.broadcast(vectors, 0))

    def eigenvalues(self) -> Tensor:
        """The eigenvalues of `spectrum`, without eigenvectors where nothing else needs them."""
        if self.by_rows:
            return self.spectrum.values
        return self.ranks.broadcast(cast(Tensor, torch.linalg.eigvalsh(self.moment)).clamp(min=0.0), 0)

    def last_gains(self, alpha: float, given: FeatureRows | None = None) -> Tensor:
        """D_x(D - x) for every row, [n] in nats: -log(1 - h) with the leverage h = alpha g^T (I + alpha F)^-1 g.

        D includes the `given` rows.
        """
        if self.by_rows and given is None:
            return last_gains(self.gram, alpha)
        moment = second_moment(self.features, self.ranks) if self.by_rows else self.moment
        moment = moment if given is None else moment + second_moment(given, self.ranks)
        leverage = alpha * self._solved_lengths(shifted_cholesky(alpha * moment))
        return -torch.log1p(-leverage.clamp(0.0, 1.0 - torch.finfo(torch.float64).eps))

    def gains(
        self, selected: Tensor, prefixes: Sequence[int], alpha: float, given: FeatureRows | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """D_x(S) for every row, [n] in nats, where S is a prefix of the rows `selected` [k, d] beside the `given` rows.

        Yields:
            Each of `prefixes`, ascending, with the gains after so many of the selected rows.

        """
        stepwise = max(_STEPWISE, self.features.dim) if given is None else 0
        root = selected[:stepwise]
        factor = shifted_cholesky(alpha * (root @ root.T))
        # Its rows become the w of M = I - sum of w w^T, as in `inverse`.
        root = alpha**0.5 * cast(Tensor, torch.linalg.solve_triangular(factor, root, upper=False))
        few = len(root) * self.features.rows <= _AT_ONCE
        losses = self._each_row(lambda block: (block @ root.T).square()).T.contiguous() if few else None
        before = 0.0 if given is None else second_moment(given, self.ranks)
        remainders, done = self.squared_norms, 0
        for count in prefixes:
            if given is None and count <= len(root):
                added = root[done:count]
                loss = (
                    self._each_row(lambda block, added=added: (block @ added.T).square().sum(dim=1))
                    if losses is None
                    else losses[done:count].sum(dim=0)
                )
                remainders, done = remainders - loss, count
            else:
                vectors = selected[:count]
                remainders = self._solved_lengths(shifted_cholesky(alpha * (before + vectors.T @ vectors)))
            yield count, torch.log1p(alpha * torch.minimum(remainders.clamp(min=0.0), self.squared_norms))

    def products(self, vector: Tensor) -> Tensor:
        """<g, vector> for every row, [n]."""
        return self._each_row(lambda block: block @ vector)

    def _solved_lengths(self, factor: Tensor) -> Tensor:
        """g^T (L L^T)^-1 g for every row, [n], with a lower factor L [d, d]."""

        def lengths(block: Tensor) -> Tensor:
            rooted = cast(Tensor, torch.linalg.solve_triangular(factor, block.T, upper=False))  # [d, b]
            return rooted.square().sum(dim=0)

        return self._each_row(lengths)

    def _each_row(self, of_block: Callable[[Tensor], Tensor]) -> Tensor:
        """What `of_block` makes of rows [b, d], for the rows of all processes: [n, ...]."""
        own = [of_block(block) for _, block in own_blocks(self.features, self.ranks)]
        nothing = self.features.block(0, 0)
        return self.ranks.all_gather(torch.cat(own or [of_block(nothing)]))


def second_moment(features: FeatureRows, ranks: Ranks = ALONE) -> Tensor:
    """Sum of g g^T over all rows, [d, d]."""
    moment = torch.zeros(features.dim, features.dim, dtype=torch.float64, device=features.device)
    for _, block in own_blocks(features, ranks):
        moment.addmm_(block.T, block)
    return ranks.all_reduce_sum(moment)


def moments_of(features: FeatureRows, ranks: Ranks = ALONE, what: str = "row") -> Moments:
    """Read every row once for its squared norm; the rest is computed when it is first needed.

    Raises `SelectionInputError` if a value is not finite; the message names the row, as `what`.
    """
    first = own_range(features.rows, ranks).start
    own = [torch.zeros(0, dtype=torch.float64, device=features.device)]
    for places, block in own_blocks(features, ranks):
        own.append(block.square().sum(dim=1))
        bad = ~torch.isfinite(own[-1])
        if bool(bad.any()):
            raise SelectionInputError(
                f"features of {what} {first + places.start + int(bad.nonzero()[0])} are not finite, or overflow when "
                "squared; find the example whose gradient overflowed and drop it."
            )
    return Moments(features, ranks.all_gather(torch.cat(own)), ranks)


def principal_directions(moments: Moments, rank: int) -> Tensor:
    """The top `rank` principal directions of features [n, d], [d, rank], orthonormal.

    `rank` must be below n and d. Directions in which the features have no extent come out as zeros.
    """
    features, ranks = moments.features, moments.ranks
    vectors, values = moments.spectrum.vectors[:, -rank:], moments.spectrum.values[-rank:]
    if not moments.by_rows:
        return vectors
    inverse_lengths = torch.where(values > 0, values.rsqrt(), 0.0)
    own = own_range(features.rows, ranks)
    own_vectors = vectors[own.start : own.stop] * inverse_lengths
    total = torch.zeros(features.dim, rank, dtype=torch.float64, device=features.device)
    for places, block in own_blocks(features, ranks):
        total.addmm_(block.T, own_vectors[places])
    return ranks.all_reduce_sum(total)


def projected(features: FeatureRows, directions: Tensor, ranks: Ranks = ALONE) -> TensorFeatures:
    """The features' coordinates [n, r] along `directions` [d, r], in memory: r float64 values a row."""
    own = [directions.new_zeros(0, directions.shape[1])]
    own += [block @ directions for _, block in own_blocks(features, ranks)]
    return TensorFeatures(ranks.all_gather(torch.cat(own)))
