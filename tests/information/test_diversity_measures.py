"""Diversity measures against their definitions, at their extremes, and under what must not change them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import diversity_oracle as oracle
from oracles.information_pools import generic_pools, pools
from spice_select.information.diversity import (
    NEIGHBOURS,
    RIDGE,
    directions_clustered,
    local_density,
    log_det_distance,
    novel_sum,
    unit_rows,
    vendi_score,
)


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
    dense = local_density(unit, unit)
    expected = [oracle.density(vectors, row, NEIGHBOURS) for row in range(len(vectors))]
    assert dense.numpy() == pytest.approx(np.array(expected), rel=1e-5)
    assert novel_sum(unit, dense) == pytest.approx(oracle.novel_sum(vectors, expected), rel=1e-5)


@given(st.integers(1, 8), st.integers(1, 5))
def test_the_extremes(count, copies):
    """k orthogonal rows are worth k, copies of one row are worth one, and neither has a distance from itself."""
    orthogonal = torch.eye(count, dtype=torch.float64)
    assert vendi_score(orthogonal) == pytest.approx(count)
    assert log_det_distance(orthogonal) == pytest.approx(0.0, abs=1e-12)
    same = orthogonal[:1].repeat(copies, 1)
    assert vendi_score(same) == pytest.approx(1.0)
    assert novel_sum(same, local_density(same, same)) == pytest.approx(0.0, abs=1e-9)
    nothing = torch.zeros(0, 3, dtype=torch.float64)
    assert (vendi_score(nothing), log_det_distance(nothing), novel_sum(nothing, nothing[:, 0])) == (0.0, 0.0, 0.0)


@given(generic_pools(min_rows=3), st.randoms(use_true_random=False))
def test_order_and_length_of_rows_change_nothing(vectors, chance):
    order = list(range(len(vectors)))
    chance.shuffle(order)
    factors = np.array([chance.uniform(0.1, 10) for _ in order])[:, None]
    one, other = directions(vectors), directions(vectors[order] * factors)
    assert vendi_score(one) == pytest.approx(vendi_score(other), rel=1e-9)
    assert log_det_distance(one) == pytest.approx(log_det_distance(other), rel=1e-9, abs=1e-9)
    dense = local_density(one, one), local_density(other, other)
    assert novel_sum(one, dense[0]) == pytest.approx(novel_sum(other, dense[1]), rel=1e-6)


@given(generic_pools(min_rows=3))
def test_one_row_more_that_is_a_copy_adds_no_effective_row(vectors):
    unit = directions(vectors)
    assert vendi_score(torch.cat([unit, unit])) == pytest.approx(vendi_score(unit), rel=1e-9)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**31))
def test_clusters_that_lie_far_apart_are_found(clusters, seed):
    rng = np.random.default_rng(seed)
    centre = np.arange(clusters).repeat(6)
    vectors = np.eye(8)[centre] + 1e-6 * rng.standard_normal((len(centre), 8))
    found = directions_clustered(directions(vectors), clusters, torch.Generator().manual_seed(seed)).numpy()
    assert len(set(zip(centre, found, strict=True))) == clusters == len(set(found))
    again = directions_clustered(directions(vectors), clusters, torch.Generator().manual_seed(seed)).numpy()
    assert (found == again).all()


@given(pools(), st.integers(1, 7))
def test_any_rows_can_be_clustered(vectors, clusters):
    unit = directions(vectors)
    if len(unit):
        count = min(clusters, len(unit))
        found = directions_clustered(unit, count, torch.Generator().manual_seed(0))
        assert len(found) == len(unit) and int(found.min()) >= 0 and int(found.max()) < count
