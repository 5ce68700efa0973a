"""Intervals over seeds, and the averages that a study reports."""

import math
import statistics

import numpy as np
import pytest

from spice_select.study.table import CellResult, Sources, interval, lines, markdown, paired


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
    """The interval of one seed is unbounded, so no difference is marked as excluding zero."""
    assert interval([5.0]).half is None
    results = [CellResult(cell, 0, 1, 5, {"a": loss}) for cell, loss in (("random", 4.0), ("spice", 3.0))]
    text = markdown(lines(results, Sources({"a": "x"}, {"x": 1}), "random"), "random", 5.0, [])
    assert "| spice | 1 | 1 | 5 | 3.0000 | -1.0000 | 3.0000 | -1.0000 |" in text


def test_a_star_marks_the_differences_that_exclude_zero() -> None:
    """Two seeds at which a cell is better by nearly the same."""
    losses = {"random": (4.0, 5.0), "better": (3.0, 4.001), "unsure": (3.0, 5.0)}
    results = [CellResult(cell, seed, 1, 5, {"a": both[seed]}) for cell, both in losses.items() for seed in (0, 1)]
    text = markdown(lines(results, Sources({"a": "x"}, {"y": 1}), "random"), "random", 5.0, [])
    assert "| -0.9995 ± 0.0064 * |" in text
    assert text.count(" * |") == 1


def test_pairs_take_out_what_both_share() -> None:
    """A constant shift at every seed has a zero-width interval; seeds of only one side are left out."""
    found = paired({0: 2.0, 1: 5.0, 2: 3.0, 9: 100.0}, {0: 1.0, 1: 4.0, 2: 2.0})
    assert found is not None
    assert (found.mean, found.half) == (1.0, 0.0)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_averages_by_source() -> None:
    """Macro: every source counts the same. In proportion: by the pool's shares, among the measured sources."""
    sources = Sources({"a": "x", "b": "x", "c": "y"}, {"x": 60, "y": 20, "z": 20})
    losses = {"a": 1.0, "b": 3.0, "c": 6.0}
    assert sources.macro(losses) == statistics.fmean([2.0, 6.0])
    assert sources.proportional(losses) == pytest.approx((0.6 * 2.0 + 0.2 * 6.0) / 0.8)
    assert Sources({"a": "x"}, {"other": 1}).proportional({"a": 4.0}) is None


def test_without_a_common_source_the_proportions_stay_empty() -> None:
    """The columns are empty, and the macro loss is still there."""
    results = [CellResult(cell, 0, 1, 5, {"a": 4.0}) for cell in ("random", "spice")]
    sources = Sources({"a": "x"}, {"other": 1})
    table = lines(results, sources, "random")
    assert [(line.macro.mean, line.proportional, line.proportional_difference) for line in table] == [
        (4.0, None, None)
    ] * 2
    remarks = sources.remarks()
    text = markdown(table, "random", 5.0, remarks)
    assert "| spice | 1 | 1 | 5 | 4.0000 | 0.0000 |  |  |" in text
    assert len(remarks) == 2
    assert text.endswith(f"{remarks[0]}\n{remarks[1]}\n")


def test_remarks_name_the_sources_of_one_side_alone() -> None:
    """There is no remark where both sides hold the same sources."""
    assert Sources({"a": "x", "b": "y", "c": "x"}, {"x": 1, "y": 1}).remarks() == []
    weightless, missing = Sources({"a": "x", "b": "new"}, {"x": 3, "z": 1}).remarks()
    assert weightless.endswith(": new.")
    assert missing.endswith(": z.")
    assert "25%" in missing
