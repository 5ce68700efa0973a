"""The tables of targets against a slow oracle, written from their definition."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spice_select.study.cost import Cost
from spice_select.study.table import CellResult
from spice_select.study.target_table import (
    TargetSources,
    overall_lines,
    overall_markdown,
    target_lines,
    target_markdown,
)

OF = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}
TARGETS = {"a": frozenset({"a", "not held out"}), "ab": frozenset({"a", "b"}), "all": frozenset({"a", "b", "c"})}
BEFORE = {"a1": 3.0, "a2": 5.0, "b1": 7.0, "c1": 5.0}
SOURCES = {name: TargetSources(OF, sources) for name, sources in TARGETS.items()}


def macro(losses: dict[str, float], target: str, *, on_target: bool) -> float | None:
    """Mean of the sources' means over the target's sources, or over the others."""
    means = [
        statistics.mean(losses[row] for row in OF if OF[row] == source)
        for source in ("a", "b", "c")
        if (source in TARGETS[target]) == on_target
    ]
    return statistics.mean(means) if means else None


def half(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    return stats.t.ppf(0.975, len(values) - 1) * math.sqrt(statistics.variance(values) / len(values))


def agrees(found, values: list[float]) -> None:
    if not values:
        assert found is None
        return
    assert found.mean == pytest.approx(statistics.mean(values))
    assert found.half == (None if len(values) == 1 else pytest.approx(half(values), abs=1e-12))


@st.composite
def measured(draw) -> list[CellResult]:
    """Cells with and without a target, at one to three seeds of which some may be missing."""
    results: list[CellResult] = []
    for seed in range(draw(st.integers(1, 3))):
        for cell, targets in (("random", [None]), ("for", [*TARGETS]), ("kind", [*TARGETS])):
            for target in targets:
                if cell == "random" or draw(st.integers(0, 4)):
                    losses = {row: draw(st.floats(0, 8)) for row in OF}
                    sources = {"a": draw(st.integers(0, 5)), "c": 2}
                    results.append(
                        CellResult(cell, seed, 7, draw(st.integers(1, 99)), losses, target, sources, Cost(1.5))
                    )
    return results


@given(measured())
def test_the_table_of_a_target(results: list[CellResult]) -> None:
    for target, sources in SOURCES.items():
        mine = [one for one in results if one.target in (None, target)]
        base = {one.seed: one.losses for one in mine if one.cell == "random"}
        untrained, *table = target_lines(results, target, sources, "random", BEFORE, [])
        assert (untrained.cell, untrained.loss.mean) == ("untrained", macro(BEFORE, target, on_target=True))
        assert (untrained.others and untrained.others.mean) == macro(BEFORE, target, on_target=False)
        assert [line.cell for line in table] == list(dict.fromkeys(one.cell for one in mine))
        for line in table:
            own = [one for one in mine if one.cell == line.cell]
            assert (line.seeds, line.rows, line.seconds) == (len(own), 7, 1.5)
            assert line.picks == statistics.mean(one.sources["a"] + 2 * (target == "all") for one in own)
            for on_target, loss, difference in (
                (True, line.loss, line.difference),
                (False, line.others, line.others_difference),
            ):
                means = [(one, macro(one.losses, target, on_target=on_target)) for one in own]
                agrees(loss, [mean for _, mean in means if mean is not None])
                apart = [
                    mean - macro(base[one.seed], target, on_target=on_target) for one, mean in means if mean is not None
                ]
                agrees(difference, apart if line.cell != "random" else [])


@given(measured())
def test_the_table_over_all_targets(results: list[CellResult]) -> None:
    """A target is one value, the mean over its seeds; settings are counted one by one."""
    loss = {
        (one.cell, target, one.seed): macro(one.losses, target, on_target=True)
        for one in results
        for target in TARGETS
        if one.target in (None, target)
    }

    def apart(cell: str, other: str) -> list[list[float]]:
        every = [
            [
                loss[key] - loss[other, *key[1:]]
                for key in loss
                if key[:2] == (cell, target) and (other, *key[1:]) in loss
            ]
            for target in TARGETS
        ]
        return [values for values in every if values]

    for line in overall_lines(results, SOURCES, "random", ["kind"], []):
        own = apart(line.cell, "random") if line.cell != "random" else []
        agrees(line.difference, [statistics.mean(values) for values in own])
        assert (line.targets, line.settings) == (len(own), sum(map(len, own)))
        assert line.won == sum(value < 0 for values in own for value in values)
        to_kind = apart(line.cell, "kind") if line.cell != "kind" else []
        agrees(line.against["kind"], [statistics.mean(values) for values in to_kind])


def test_the_words_and_columns_of_both() -> None:
    """One row of each kind, as people read it."""
    results = [
        CellResult("random", 0, 3, 9, {"a1": 3.0, "a2": 3.0, "b1": 1.0, "c1": 2.0}, None, {"a": 1, "b": 2}),
        CellResult("for", 0, 3, 9, {"a1": 2.0, "a2": 3.0, "b1": 1.0, "c1": 3.0}, "a", {"a": 3}, Cost(12.34)),
    ]
    text = target_markdown("a", target_lines(results, "a", SOURCES["a"], "random", BEFORE, []), "random")
    assert text.startswith("Target a:\n\n| cell | seeds |")
    assert "| for | 1 | 3 | 9 | 3.0 | 2.5000 | -0.5000 | 2.0000 | 0.5000 | 12.3 |" in text
    assert "| untrained |  | 0 | 0 | 0.0 | 4.0000 |  | 6.0000 |  |  |" in text
    overall = overall_markdown(overall_lines(results, {"a": SOURCES["a"]}, "random", ["for"], []), "random", ["for"])
    assert "| random |  |  |  | 0.5000 |\n| for | 1 | -0.5000 | 1 of 1 |  |" in overall
