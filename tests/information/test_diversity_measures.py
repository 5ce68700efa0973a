"""Diversity measures against their definitions, at their extremes, and under what must not change them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracles import diversity_oracle as oracle
from oracles.information_pools import generic_pools, pools
from spice_select.information.diversity import RIDGE, log_det_distance, unit_rows, vendi_score


def directions(vectors: np.ndarray) -> torch.Tensor:
    return unit_rows(torch.from_numpy(vectors))[0]


@given(pools())
def test_rows_without_a_direction_are_left_out(vectors):
    unit, places = unit_rows(torch.from_numpy(vectors))
    assert places.tolist() == [i for i, v in enumerate(vectors) if np.linalg.norm(v) > 0]
    assert torch.allclose(unit.norm(dim=1), torch.ones(len(unit), dtype=torch.float64))


@given(generic_pools())
def test_measures_follow_their_definitions(vectors):
    unit = directions(vectors)
    assert vendi_score(unit) == pytest.approx(oracle.vendi(vectors), rel=1e-6)
    assert log_det_distance(unit) == pytest.approx(oracle.log_det_distance(vectors, RIDGE), rel=1e-7, abs=1e-9)


@given(st.integers(1, 8), st.integers(1, 5))
def test_the_extremes(count, copies):
    """k orthogonal rows count as k different rows and have no distance; copies of one row count as one."""
    orthogonal = torch.eye(count, dtype=torch.float64)
    assert vendi_score(orthogonal) == pytest.approx(count)
    assert log_det_distance(orthogonal) == pytest.approx(0.0, abs=1e-12)
    same = orthogonal[:1].repeat(copies, 1)
    assert vendi_score(same) == pytest.approx(1.0)
    nothing = torch.zeros(0, 3, dtype=torch.float64)
    assert (vendi_score(nothing), log_det_distance(nothing)) == (0.0, 0.0)


@given(generic_pools(min_rows=3), st.randoms(use_true_random=False))
def test_order_and_length_of_rows_change_nothing(vectors, chance):
    order = list(range(len(vectors)))
    chance.shuffle(order)
    factors = np.array([chance.uniform(0.1, 10) for _ in order])[:, None]
    one, other = directions(vectors), directions(vectors[order] * factors)
    assert vendi_score(one) == pytest.approx(vendi_score(other), rel=1e-9)
    assert log_det_distance(one) == pytest.approx(log_det_distance(other), rel=1e-9, abs=1e-9)


@given(generic_pools(min_rows=3))
def test_one_row_more_that_is_a_copy_adds_no_effective_row(vectors):
    unit = directions(vectors)
    assert vendi_score(torch.cat([unit, unit])) == pytest.approx(vendi_score(unit), rel=1e-9)
