"""What each limit guarantees, how costs weigh, and the corners of curvature, alpha and random rows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spice_select.information import (
    CostLimit,
    GroupLimit,
    RowLimit,
    SelectionInputError,
    TensorFeatures,
    choose_rows,
    moments_of,
    select_from_features,
    select_from_gram,
)

COST_PAIR = CostLimit(torch.tensor([1.0, 100.0]), 100)


@pytest.mark.parametrize(
    ("rows", "limit", "penalty", "picks"),
    [
        ([[0.33, 0.0], [0.0, 3.0]], COST_PAIR, 0.0, [1]),
        ([[1.0, 0.0], [-0.1, 0.0], [-0.1, 0.0]], CostLimit(torch.tensor([1.0, 1.0, 100.0]), 101), 1.0, [0, 1]),
        ([[1.0, 0.0], [-0.1, 0.0], [-0.1, 0.0]], CostLimit(torch.tensor([1.0, 100.0, 1.0]), 101), 1.0, [0, 2]),
    ],
)
def test_costs_are_weighed_against_what_rows_are_worth(rows, limit, penalty, picks) -> None:
    """A dear row that is worth more than all that fits beside it is taken; of two equal rows the cheaper one is."""
    assert choose_rows(moments_of(TensorFeatures(torch.tensor(rows))), limit, 1.0, penalty, None).indices == picks


@pytest.mark.parametrize(
    ("limit", "factor"),
    [
        (RowLimit(2), lambda c: -math.expm1(-c) / c),
        (GroupLimit(2, torch.tensor([0, 0, 1]), [1, 1], [1, 1]), lambda c: 1 / (1 + c)),
        (CostLimit(torch.tensor([1.0, 1.0, 1.0]), 2), lambda _: 1 - math.exp(-0.5)),
    ],
)
def test_each_limit_has_its_own_guarantee_and_a_penalty_has_none(limit, factor) -> None:
    """A quota of [[1.01, 0], [0, 1], [1, 0]] reaches 0.797 of the optimum: less than a budget of rows is promised."""
    moments = moments_of(TensorFeatures(torch.tensor([[1.01, 0.0], [0.0, 1.0], [1.0, 0.0]])))
    chosen = choose_rows(moments, limit, 1.0, 0.0, None)
    assert chosen.guarantee == pytest.approx(factor(chosen.curvature))
    assert choose_rows(moments, limit, 1.0, 0.1, None).guarantee is None
    assert choose_rows(moments, limit, 1.0, 0.0, 1.0).guarantee is None  # stops after the first pick


@pytest.mark.parametrize("short", [1e-8, 1e-4, 1.0])
@pytest.mark.parametrize("width", [6, 9])
def test_orthogonal_rows_have_no_curvature_however_short_one_is(short: float, width: int) -> None:
    rows = torch.linalg.qr(torch.randn(width, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0].T
    rows[3] *= short
    assert select_from_gram(rows @ rows.T, 2, 1.0).curvature == pytest.approx(0.0, abs=1e-7)
    assert select_from_features(rows, 2, 1.0).curvature == pytest.approx(0.0, abs=1e-7)


def test_given_rows_count_in_how_far_alpha_reaches() -> None:
    rows, held = torch.eye(3), TensorFeatures(1e8 * torch.eye(3))
    with pytest.raises(SelectionInputError, match="given row 0"):
        choose_rows(moments_of(TensorFeatures(rows)), RowLimit(1), 1.0, 0.0, None, held)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_as_much_by_cost_is_what_fits_when_each_row_is_tried_in_turn(data: st.DataObject) -> None:
    """Until none fits: as much cost as the picks, not as many rows."""
    costs = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=30))
    picks = data.draw(st.lists(st.sampled_from(range(len(costs))), min_size=1, unique=True))
    order, left, wanted = data.draw(st.permutations(range(len(costs)))), sum(costs[row] for row in picks), []
    for row in order:
        if costs[row] <= left:
            wanted.append(row)
            left -= costs[row]
    limit = CostLimit(torch.tensor(costs, dtype=torch.float64), 20.0)
    assert limit.as_much(picks, torch.tensor(order)).tolist() == wanted


def test_the_cheapest_of_several_equal_rows_is_the_best_single_one() -> None:
    moments = moments_of(TensorFeatures(torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 0.18]])))
    assert choose_rows(moments, CostLimit(torch.tensor([200.0, 199.0, 2.0]), 200), 1.0, 0.0, None).indices == [1]


def test_nothing_is_guaranteed_of_a_budget_of_cost_that_a_stop_left_unspent() -> None:
    """Orthogonal rows: one that costs the whole budget, one of nearly its score, 99 of half that score."""
    gains = torch.tensor([1.05, 1.0, *[0.5] * 99], dtype=torch.float64)
    limit = CostLimit(torch.tensor([100.0, *[1.0] * 100]), 100)
    moments = moments_of(TensorFeatures(torch.diag(torch.expm1(gains).sqrt())))
    assert choose_rows(moments, limit, 1.0, 0.0, 0.9).guarantee is None
