"""Intervals over seeds, and the averages that a study reports."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spice_select.study.cost import Cost
from spice_select.study.cost_table import cost_lines, cost_markdown
from spice_select.study.intervals import difference, holm, interval, paired
from spice_select.study.table import CellResult, Sources, lines, markdown


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
    text = markdown(lines(results, Sources({"a": "x"}, {"x": 1}), "random", {"a": 5.0}, {}), "random", [])
    assert "| untrained |  | 0 | 0 | 5.0000 |  | 5.0000 |  |" in text
    assert "| spice | 1 | 1 | 5 | 3.0000 | -1.0000 | 3.0000 | -1.0000 |" in text


def test_a_star_marks_the_differences_whose_adjusted_p_is_small() -> None:
    """Two seeds at which a cell is better by nearly the same; random at equal tokens is a control and not tested."""
    losses = {"random": (4.0, 5.0), "better": (3.0, 4.0001), "unsure": (3.0, 5.0), "fair": (3.5, 4.5001)}
    results = [CellResult(cell, seed, 1, 5, {"a": both[seed]}) for cell, both in losses.items() for seed in (0, 1)]
    table = lines(results, Sources({"a": "x"}, {"y": 1}), "random", {"a": 6.0}, {"better": "fair"})
    text = markdown(table, "random", [])
    p = stats.ttest_1samp([-1.0, -0.9999], 0).pvalue
    found = {line.cell: line for line in table}
    assert found["better"].difference.adjusted == pytest.approx(2 * p)
    assert found["better"].at_equal_tokens.mean == pytest.approx(-0.5)
    assert found["fair"].difference.adjusted is None
    assert found["fair"].difference.p == pytest.approx(stats.ttest_1samp([-0.5, -0.4999], 0).pvalue)
    assert "| minus random at equal tokens |" in text
    (better,) = [line for line in text.splitlines() if line.startswith("| better ")]
    assert better.startswith("| better | 2 | 1 | 5 | 3.5000 ± 6.3537 | -1.0000 ± 0.0006, p < 0.001 * |")
    assert text.count(" * |") == 2


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
    table = lines(results, sources, "random", {"a": 4.0}, {})
    assert [(line.macro.mean, line.proportional, line.proportional_difference) for line in table] == [
        (4.0, None, None)
    ] * 3
    remarks = sources.remarks()
    text = markdown(table, "random", remarks)
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


@given(st.lists(st.integers(-300, 300), min_size=2, max_size=8).filter(lambda values: len({*values}) > 1))
def test_p_is_that_of_the_t_test(values: list[int]) -> None:
    """And below 0.05 just where the interval excludes zero."""
    found = difference(values)
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=1e-9)
    if abs(abs(found.mean) - found.half) > 1e-9:
        assert (found.p < 0.05) == (abs(found.mean) > found.half)


def test_equal_differences_leave_no_doubt() -> None:
    """A shift that all seeds share is no chance; no shift at all is no difference."""
    assert (difference([0.5, 0.5]).p, difference([0.0, 0.0]).p, difference([0.5]).p) == (0.0, 1.0, None)


@given(st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=4), min_size=1, max_size=5))
def test_holm_is_the_closure_of_bonferroni(cells: list[list[float]]) -> None:
    """A difference is as doubtful as the most doubtful set of tested differences that it belongs to."""
    column = {str(place): difference(values) for place, values in enumerate(cells)}
    found, tested = (
        holm(column, ["0"]),
        {cell: one.p for cell, one in column.items() if one.p is not None and cell != "0"},
    )
    for cell, one in found.items():
        if cell not in tested:
            assert one.adjusted is None
            continue
        sets = [group for size in range(1, 6) for group in itertools.combinations(tested, size) if cell in group]
        worst = max(len(group) * min(tested[other] for other in group) for group in sets)
        assert one.adjusted == pytest.approx(min(1.0, worst))


def test_the_break_even_counts_choice_and_tuning_in_rows_of_the_baseline() -> None:
    """100 random rows take 50 s, so a choice of 200 s and a fine-tuning of 40 s are worth 480; the unknown is empty."""

    def result(cell: str, seed: int, cost: Cost, tuning: float | None) -> CellResult:
        return CellResult(cell, seed, 100, 5, {}, None, {}, cost, tuning)

    results = [
        result("random", 0, Cost(0.0, 0, 0, 1.0), 45.0),
        result("random", 1, Cost(0.0, 0, 0, 1.0), 55.0),
        result("spice", 0, Cost(150.0, 900, 700, 2.0), 40.0),
        result("spice", 1, Cost(250.0, 1100, 900, 3.0), 40.0),
        result("earlier", 0, Cost(9.0, None, None, None, None), 40.0),
        result("moved", 0, Cost(9.0, 10, 0, 1.0, 7.0), None),
    ]
    table = cost_lines(results, "random")
    assert [line.break_even for line in table] == [100, 480, 98, None]
    assert table[1].choice == Cost(200.0, 1000, 800, 3.0)
    text = cost_markdown(table, "random")
    assert "| spice | 200.0 | 1,000 | 800 | 3.00 | 0.00 | 40.0 | 480 |" in text
    assert "| earlier | 9.0 |  |  |  |  | 40.0 | 98 |" in text
    assert "| moved | 9.0 | 10 | 0 | 1.00 | 7.00 |  |  |" in text
    assert "GPU" not in cost_markdown(table[:3], "random")
    assert [line.break_even for line in cost_lines(results[2:], "random")] == [None] * 3
