"""Intervals over seeds, and the averages that a study reports."""

import math
import statistics

import numpy as np
import pytest

from spice_select.study.statistics import interval, paired
from spice_select.study.table import Shares


def test_the_interval_of_a_known_example() -> None:
    """Mean 3, standard deviation sqrt(2.5), n = 5: half width t(0.975; 4) * sqrt(2.5 / 5)."""
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3.0
    assert found.half == pytest.approx(2.776 * math.sqrt(0.5), abs=1e-3)


@pytest.mark.parametrize("count", [2, 3, 5, 12, 40])
def test_the_interval_covers_the_mean_in_95_of_100_draws(count: int) -> None:
    """Student's t is exact for normal values, whatever their number."""
    draws = np.random.default_rng(count).normal(7.0, 2.0, (4000, count))
    covered = sum(abs(found.mean - 7.0) <= found.half for found in (interval(list(row)) for row in draws))
    assert 0.935 < covered / 4000 < 0.965


def test_a_single_value_settles_nothing() -> None:
    """Its interval is unbounded, so no difference is ever said to exclude zero."""
    assert not interval([5.0]).excludes_zero
    assert str(interval([5.0])) == "5.0000"


def test_pairs_take_out_what_both_share() -> None:
    """A constant shift at every seed has a zero-width interval; seeds of only one side are left out."""
    found = paired({0: 2.0, 1: 5.0, 2: 3.0, 9: 100.0}, {0: 1.0, 1: 4.0, 2: 2.0})
    assert found is not None
    assert (found.mean, found.half) == (1.0, 0.0)
    assert found.excludes_zero
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_averages_by_source() -> None:
    """Macro: every source alike. In proportion: by the pool's shares, among the sources that were measured."""
    shares = Shares({"a": "x", "b": "x", "c": "y"}, {"x": 0.6, "y": 0.2, "z": 0.2})
    losses = {"a": 1.0, "b": 3.0, "c": 6.0}
    assert shares.macro(losses) == statistics.fmean([2.0, 6.0])
    assert shares.in_proportion(losses) == pytest.approx((0.6 * 2.0 + 0.2 * 6.0) / 0.8)
    assert Shares({"a": "x"}, {"other": 1.0}).in_proportion({"a": 4.0}) == 4.0
