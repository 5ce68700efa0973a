"""The cut to the principal gradient subspace."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracles.information_pools import gram_of, pools
from oracles.selection_oracle import information as oracle_information
from spice_select.information import SelectionInputError, information, principal_gram, principal_rank


@given(pools(), st.integers(1, 9))
def test_it_is_the_gram_matrix_of_projected_gradients(vectors, rank) -> None:
    """Equal to projecting each gradient on the top right singular vectors (an SVD of the gradients themselves)."""
    _, values, directions = np.linalg.svd(vectors, full_matrices=False)
    if rank < len(values) and values[rank - 1] - values[rank] < 1e-6 * max(values[0], 1e-9):
        return  # equal singular values: the subspace is not unique
    projected = vectors @ directions[:rank].T
    cut = principal_gram(gram_of(vectors), rank).matrix
    np.testing.assert_allclose(cut, gram_of(projected), atol=1e-8 * (1 + np.square(vectors).sum()))


@given(pools(), st.integers(1, 6))
def test_information_in_a_subspace_never_exceeds_the_whole(vectors, rank) -> None:
    """Projection loses information and never adds any, for the set of all rows."""
    rows = list(range(len(vectors)))
    inside = information(principal_gram(gram_of(vectors), rank), rows, 0.5)
    assert inside <= oracle_information(vectors, rows, 0.5) + 1e-8


def test_a_rank_from_m_on_changes_nothing() -> None:
    """The paper's formula is the limit."""
    matrix = gram_of(np.random.default_rng(0).standard_normal((5, 9)))
    assert torch.equal(principal_gram(matrix, 5).matrix, principal_gram(matrix, 50).matrix)
    np.testing.assert_allclose(principal_gram(matrix, 5).matrix, matrix, rtol=1e-12)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank) -> None:
    """The message names the value."""
    with pytest.raises(SelectionInputError, match=str(rank)):
        principal_gram(np.eye(3), rank)


def test_there_are_fewer_directions_than_picks() -> None:
    """Half as many, never none, and few in a large pool."""
    assert [principal_rank(picks) for picks in (0, 1, 2, 3, 12, 32, 5000)] == [1, 1, 1, 1, 6, 16, 16]
