"""Intervals over seeds, and the averages that a study reports."""

import json
import math
import statistics
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spice_select.study.cells import CellResult
from spice_select.study.files import read_json, write_json
from spice_select.study.remarks import source_remarks
from spice_select.study.statistics import interval, paired
from spice_select.study.table import Shares, lines, markdown


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
    assert Shares({"a": "x"}, {"other": 1.0}).in_proportion({"a": 4.0}) is None


def test_without_a_common_source_the_proportions_stay_empty() -> None:
    """No number stands in the columns, and the macro loss is there all the same."""
    results = [CellResult(cell, 0, {}, ["r"], 5, [1.0], {"a": 4.0}) for cell in ("random", "spice")]
    table = lines(results, Shares({"a": "x"}, {"other": 1.0}), "random")
    assert [(line.macro.mean, line.proportional, line.proportional_difference) for line in table] == [
        (4.0, None, None)
    ] * 2
    remarks = source_remarks(["x"], {"other": 1.0})
    text = markdown(table, "random", 5.0, remarks)
    assert "| spice | 1 | 1 | 5 | 4.0000 | 0.0000 |  |  |" in text
    assert len(remarks) == 1
    assert text.endswith(f"{remarks[0]}\n")


def test_remarks_name_the_sources_of_one_side_alone() -> None:
    """Nothing is said where both sides hold the same sources."""
    assert source_remarks(["x", "y", "x"], {"x": 0.5, "y": 0.5}) == []
    weightless, missing = source_remarks(["x", "new"], {"x": 0.75, "z": 0.25})
    assert weightless.endswith(": new.")
    assert missing.endswith(": z.")
    assert "25%" in missing


VALUES = st.recursive(
    st.none() | st.integers() | st.text() | st.floats(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
)


@given(st.dictionaries(st.text(), VALUES))
def test_what_is_written_is_json_for_every_reader(content) -> None:
    """Infinity and NaN, which JSON lacks, come back as null; all else as it was."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.json"
        write_json(path, content)

        def refuse(name: str) -> None:
            raise AssertionError(name)

        expected = json.loads(json.dumps(content), parse_constant=lambda _: None)
        assert json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse) == expected
        assert read_json(path) == expected
