"""Bootstrap intervals against two plain loops, against the truth they should cover, and in degenerate cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.evaluation_oracle import oracle_interval, oracle_means
from spice_select.errors import ConfigError
from spice_select.evaluation import bootstrap
from spice_select.evaluation.bootstrap import (
    Interval,
    macro_interval,
    macro_mean,
    paired_difference,
    percentile_interval,
    source_means,
)

values = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


@given(groups=st.dictionaries(st.text(max_size=3), values, min_size=1, max_size=4), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_equals_the_slow_loop(groups, seed):
    """The same random numbers, drawn one at a time: same means, same intervals."""
    means = source_means(groups, 23, seed)
    slow = {name: oracle_means(groups[name], 23, [seed, i]) for i, name in enumerate(sorted(groups))}
    for name in groups:
        assert means[name] == pytest.approx(slow[name], abs=1e-10)
        interval = percentile_interval(means[name])
        assert (interval.low, interval.high) == pytest.approx(oracle_interval(slow[name]), abs=1e-10)
    macro = [sum(column) / len(slow) for column in zip(*slow.values(), strict=True)]
    interval = macro_interval(means)
    assert (interval.low, interval.high) == pytest.approx(oracle_interval(macro), abs=1e-10)


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


def test_covers_the_truth_in_about_95_percent_of_draws():
    """400 data sets of three skewed sources of unequal size: the macro interval holds the true mean about 380 times.

    Percentile intervals of small skewed samples cover a little less than 95 %; the bounds are 88 % and 99 %.
    """
    generator = np.random.default_rng(7)
    sizes, scales = (30, 60, 120), (0.5, 1.0, 2.0)
    truth = float(np.mean(scales))
    covered = 0
    for draw in range(400):
        groups = {str(n): generator.exponential(s, n).tolist() for n, s in zip(sizes, scales, strict=True)}
        covered += not macro_interval(source_means(groups, 400, draw)).excludes(truth)
    assert 352 <= covered <= 396, covered


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


def test_one_row_a_source_is_a_point():
    groups = {"a": [1.25], "b": [0.1]}
    means = source_means(groups, 100, 0)
    assert percentile_interval(means["a"]) == Interval(1.25, 1.25)
    assert macro_interval(means) == Interval(macro_mean(groups), macro_mean(groups))


def test_one_source_is_its_own_macro():
    means = source_means({"a": [1.0, 2.0, 5.0]}, 100, 0)
    assert macro_interval(means) == percentile_interval(means["a"])


@given(losses=st.dictionaries(st.text(max_size=3), st.floats(0, 20), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_a_model_against_itself_differs_by_exactly_nothing(losses):
    sources = {name: name[:1] for name in losses}
    same = paired_difference(losses, losses, sources, resamples=50)
    assert (same.macro, same.interval) == (0.0, Interval(0.0, 0.0))
    assert not same.interval.excludes(0.0)


def test_the_paired_difference_is_antisymmetric_and_sees_what_is_common():
    """Rows differ by far more than the models do: only the pairing shows that every row is better by about 0.1."""
    generator = np.random.default_rng(1)
    names = [f"r{i}" for i in range(80)]
    sources = {name: "ab"[i % 2] for i, name in enumerate(names)}
    second = dict(zip(names, generator.normal(3, 2, 80).tolist(), strict=True))
    first = {name: loss - 0.1 + 0.01 * float(generator.normal()) for name, loss in second.items()}
    difference = paired_difference(first, second, sources, resamples=500)
    back = paired_difference(second, first, sources, resamples=500)
    assert difference.macro == pytest.approx(-0.1, abs=0.01) and difference.interval.excludes(0.0)
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
