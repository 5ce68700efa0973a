"""Bootstrap intervals against plain loops, against Student's t and the truth they should cover, and at the edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.evaluation_oracle import oracle_interval, oracle_means
from spice_select.errors import ConfigError
from spice_select.evaluation import bootstrap
from spice_select.evaluation.bootstrap import (
    Interval,
    by_source,
    macro_interval,
    macro_mean,
    paired_difference,
    percentile_interval,
    source_means,
)

values = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


def slow_means(rows, resamples, seed):
    """Bootstrap means, each deviation widened by itself; the widths are drawn after all rows."""
    means = oracle_means(rows, resamples, seed)
    generator = np.random.default_rng(seed)
    generator.integers(0, len(rows), size=resamples * len(rows))
    centre = sum(rows) / len(rows)
    return [centre + (mean - centre) * math.sqrt(len(rows) / generator.chisquare(len(rows) - 1)) for mean in means]


@given(
    groups=st.dictionaries(st.text(max_size=3), values.filter(lambda rows: len(rows) > 1), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_equals_the_slow_loop(groups, seed):
    """The same random numbers, drawn one at a time: same means, same intervals."""
    means = source_means(groups, 23, seed)
    slow = {name: slow_means(groups[name], 23, [seed, i]) for i, name in enumerate(sorted(groups))}
    for name in groups:
        assert means[name] == pytest.approx(slow[name], rel=1e-9, abs=1e-9)
        interval = percentile_interval(means[name])
        assert (interval.low, interval.high) == pytest.approx(oracle_interval(slow[name]), rel=1e-9, abs=1e-9)
    macro = [sum(column) / len(slow) for column in zip(*slow.values(), strict=True)]
    interval = macro_interval(means)
    assert (interval.low, interval.high) == pytest.approx(oracle_interval(macro), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("at_once", [1, 17, 1 << 22])
def test_memory_does_not_change_the_draws(monkeypatch, at_once):
    groups = {"a": [1.0, 4.0, 9.0, 2.0], "b": [0.5, 0.25]}
    whole = source_means(groups, 50, 3)
    monkeypatch.setattr(bootstrap, "DRAWS_AT_ONCE", at_once)
    parts = source_means(groups, 50, 3)
    assert all(np.array_equal(whole[name], parts[name]) for name in groups)


@given(groups=st.dictionaries(st.text(max_size=3), values, min_size=1, max_size=4), random=st.randoms())
@settings(max_examples=30, deadline=None)
def test_the_order_of_rows_and_sources_makes_no_difference(groups, random):
    shuffled = {name: random.sample(rows, len(rows)) for name, rows in random.sample(list(groups.items()), len(groups))}
    before, after = source_means(groups, 20, 0), source_means(shuffled, 20, 0)
    assert all(np.array_equal(before[name], after[name]) for name in groups)
    assert macro_mean(shuffled) == pytest.approx(macro_mean(groups), abs=1e-9)


NORMAL, SKEWED = "normal", "exponential"


@pytest.mark.parametrize(
    ("draw", "sizes", "least", "most"),
    [
        (NORMAL, (2,), 0.91, 0.98),
        (NORMAL, (3,), 0.92, 0.98),
        (NORMAL, (5,), 0.92, 0.98),
        (NORMAL, (12,), 0.92, 0.98),
        (NORMAL, (5, 8, 12), 0.93, 0.99),
        (NORMAL, (2, 50, 50), 0.93, 1.0),
        (SKEWED, (5,), 0.84, 0.97),
        (SKEWED, (12,), 0.87, 0.97),
        (SKEWED, (5, 5, 5), 0.90, 1.0),
        (SKEWED, (30, 60, 120), 0.91, 0.98),
    ],
)
def test_covers_the_truth_in_about_95_percent_of_draws(draw, sizes, least, most):
    """Data sets of sources of unequal scale: how often the macro interval holds the true mean, for so few rows.

    For skewed rows no interval from their mean and spread alone does better; several small sources err to the safe
    side. Bounds are three standard deviations of 600 trials around what 1,500 trials gave.
    """
    generator = np.random.default_rng(7)
    scales = np.linspace(0.5, 2.0, len(sizes))
    truth = 0.0 if draw == NORMAL else float(np.mean(scales))
    covered = 0
    for trial in range(600):
        groups = {str(i): (scales[i] * sample(generator, draw, n)).tolist() for i, n in enumerate(sizes)}
        low, high = macro_interval(source_means(groups, 400, trial))
        covered += low <= truth <= high
    assert least <= covered / 600 <= most


def sample(generator, draw, count):
    """Values of mean 0 (normal) or 1 (exponential)."""
    return generator.normal(size=count) if draw == NORMAL else generator.exponential(size=count)


@pytest.mark.parametrize(("count", "quantile"), [(5, 2.776), (8, 2.365), (20, 2.093), (200, 1.972)])
def test_of_one_source_it_is_about_students_t(count, quantile):
    """Rows at normal quantiles; the resample is not quite normal, so a few percent are left."""
    normal = np.sort(np.random.default_rng(0).normal(size=(4000, count)), axis=1).mean(axis=0)
    interval = percentile_interval(source_means({"a": normal.tolist()}, 20_000, 0)["a"])
    expected = 2 * quantile * normal.std(ddof=1) / math.sqrt(count)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.06)


def test_narrows_with_the_root_of_the_rows():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=6400)
    widths = []
    for count in (100, 6400):
        interval = percentile_interval(source_means({"a": rows[:count].tolist()}, 2000, 0)["a"])
        widths.append(interval.high - interval.low)
        expected = 2 * 1.96 * rows[:count].std() / count**0.5
        assert widths[-1] == pytest.approx(expected, rel=0.1)
    assert widths[0] / widths[1] == pytest.approx(8, rel=0.25)


@given(groups=st.dictionaries(st.text(max_size=3), values, min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_one_row_says_nothing_about_its_source_nor_of_the_macro_mean(groups):
    """There is an interval exactly where there are two rows, and of the macro mean where every source has one."""
    means = source_means(groups, 10, 0)
    assert {name for name in groups if percentile_interval(means[name])} == {
        name for name, rows in groups.items() if len(rows) > 1
    }
    assert (macro_interval(means) is None) == any(len(rows) == 1 for rows in groups.values())
    losses = {f"{name}-{i}": row for name, rows in groups.items() for i, row in enumerate(rows)}
    sources = {f"{name}-{i}": name for name, rows in groups.items() for i in range(len(rows))}
    difference = paired_difference(losses, dict.fromkeys(losses, 0.0), sources, resamples=10)
    assert difference.interval == macro_interval(means)
    assert difference.macro == macro_mean(by_source(losses, sources))


def test_one_source_is_its_own_macro():
    means = source_means({"a": [1.0, 2.0, 5.0]}, 100, 0)
    assert macro_interval(means) == percentile_interval(means["a"])


@given(losses=st.dictionaries(st.text(max_size=3), st.floats(0, 20), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_a_model_against_itself_differs_by_exactly_nothing(losses):
    sources = {name: name[:1] for name in losses}
    same = paired_difference(losses, losses, sources, resamples=50)
    alone = min(map(len, by_source(losses, sources).values())) == 1
    assert (same.macro, same.interval) == (0.0, None if alone else Interval(0.0, 0.0))


def test_the_paired_difference_is_antisymmetric_and_sees_what_is_common():
    """Rows differ by far more than the models do: only the pairing shows that every row is better by about 0.1."""
    generator = np.random.default_rng(1)
    names = [f"r{i}" for i in range(80)]
    sources = {name: "ab"[i % 2] for i, name in enumerate(names)}
    second = dict(zip(names, generator.normal(3, 2, 80).tolist(), strict=True))
    first = {name: loss - 0.1 + 0.01 * float(generator.normal()) for name, loss in second.items()}
    difference = paired_difference(first, second, sources, resamples=500)
    back = paired_difference(second, first, sources, resamples=500)
    assert difference.macro == pytest.approx(-0.1, abs=0.01) and difference.interval.high < 0.0
    assert difference.interval.low < difference.macro < difference.interval.high < 0
    assert back.macro == pytest.approx(-difference.macro)
    shifted = paired_difference({name: loss + 5 for name, loss in second.items()}, second, sources, resamples=50)
    assert (shifted.interval.low, shifted.interval.high) == pytest.approx((5.0, 5.0))


@pytest.mark.parametrize(
    ("call", "clue"),
    [
        (lambda: source_means({"a": [1.0]}, 0, 0), "resamples"),
        (lambda: source_means({"a": [1.0]}, 5, -1), "seed"),
        (lambda: source_means({}, 5, 0), "no row"),
        (lambda: paired_difference({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0}, {"a": "s", "b": "s"}), "2 ids differ"),
    ],
)
def test_mistakes(call, clue):
    with pytest.raises(ConfigError, match=clue):
        call()
