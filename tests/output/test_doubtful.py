"""Doubtful picks by their definition, and what terminal, manifest and page say of them."""

import json
import math
import statistics

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.forked import spice
from oracles.runs import chat_rows, write_jsonl
from spice_select.choices import Measures, PoolRecord, TargetMeasures
from spice_select.doubtful import LEAST_ROWS, OPPOSED, doubtful_picks, upper_fences

QUARTERS = st.integers(-40, 40).map(lambda number: number / 4)  # quartiles of these are exact
LOSSES = st.lists(st.tuples(st.sampled_from("abc"), st.none() | QUARTERS), max_size=40)


def fence_of(source: str, rows: list[tuple[str, float | None]]) -> float:
    """Tukey's upper fence of a source, from its definition."""
    losses = [loss for name, loss in rows if name == source and loss is not None]
    if len(losses) < LEAST_ROWS:
        losses = [loss for _, loss in rows if loss is not None]
    lower, _, upper = statistics.quantiles(losses * (1 if len(losses) > 1 else 2), n=4, method="inclusive")
    return upper + 1.5 * (upper - lower)


def fences_of(rows: list[tuple[str, float | None]]) -> list[float]:
    return [math.nan if loss is None else fence_of(source, rows) for source, loss in rows]


@given(LOSSES)
def test_fences_are_those_of_each_source(rows):
    """Sources with few known losses have the fence of all rows; a row without a loss has none and counts for none."""
    losses = np.array([math.nan if loss is None else loss for _, loss in rows], np.float64)
    np.testing.assert_array_equal(upper_fences(losses, [source for source, _ in rows]), fences_of(rows))


def record_of(number, rows, picks, losses, conflicts) -> PoolRecord:
    """A pool of these rows; `losses` or `conflicts` of None are not known."""
    nothing = [0.0] * len(rows)
    measures = Measures(
        norm=nothing, gain=nothing, base=nothing, epsilon=nothing, conflict=nothing, score=nothing, alpha=1.0,
        information=1.0, random_information=1.0, bound=1.0, certificate=1.0, bound_source="", curvature=0.0,
        loss=None if losses is None else [losses[row] for row in rows],
    )  # fmt: skip
    against = None
    if conflicts is not None:
        own = [conflicts[row] for row in rows]
        against = TargetMeasures("variance", [1.0], own, [0.0], [0.0], [0.0], [0.0], [], [], [[] for _ in picks], 1.0)
    return PoolRecord(number, list(rows), list(picks), len(picks), False, 0.0, measures, target=against)


@settings(max_examples=60)
@given(st.data())
def test_doubtful_picks_are_those_above_their_limit_however_the_pool_is_cut(data):
    """One pool or several, in any order of rows; farthest above the limit first, then the lower row."""
    count = data.draw(st.integers(1, 30))
    sources = data.draw(st.lists(st.sampled_from("abc"), min_size=count, max_size=count))
    losses = data.draw(st.none() | st.lists(QUARTERS, min_size=count, max_size=count))
    eighths = st.integers(0, 8).map(lambda number: number / 8)
    conflicts = data.draw(st.none() | st.lists(eighths, min_size=count, max_size=count))
    picked = data.draw(st.sets(st.integers(0, count - 1)))
    order, cut = data.draw(st.permutations(range(count))), data.draw(st.integers(0, count))
    records = [
        record_of(number, rows, [place for place, row in enumerate(rows) if row in picked], losses, conflicts)
        for number, rows in enumerate((order[:cut], order[cut:]))
    ]
    fences = [math.nan] * count if losses is None else fences_of(list(zip(sources, losses, strict=True)))

    def expected(values, limits):
        above = [(row, values[row], limits[row]) for row in picked if values[row] > limits[row]]
        return sorted(above, key=lambda doubt: (doubt[2] - doubt[1], doubt[0]))

    found = doubtful_picks(sources, records)
    assert found.opposed == (None if conflicts is None else expected(conflicts, [OPPOSED] * count))
    assert found.high_loss == (None if losses is None else expected(losses, fences))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pool with an id that would colour a terminal and two answers like no other, and a target of one row."""
    place = tmp_path_factory.mktemp("files")
    rows = chat_rows(47)
    for number in (4, 9):
        rows[number]["messages"][1]["content"] = "\u0416\u00df\u03a9" * 9
    rows[4]["id"] += "\x1b[31m"
    write_jsonl(place / "pool.jsonl", rows[:46])
    write_jsonl(place / "task.jsonl", rows[46:])
    return place


def chosen(folder, tiny_model, output, *options):
    done = spice("run", folder / "pool.jsonl", "--model", tiny_model, "--budget", "46", "--output", output, *options)
    assert done.returncode == 0, done.stderr
    totals = json.loads((output / "manifest.json").read_text())["totals"]
    said = [line for line in done.stdout.splitlines() if line.startswith(("oppose the target", "loss stays high"))]
    page = (output / "report.html").read_text(encoding="utf-8")
    return pq.read_table(output / "scores.parquet").to_pylist(), totals, said, page


LORA = ["--lora-rank", "2", "--warmup-steps", "8", "--learning-rate", "0.02"]


@pytest.mark.parametrize("form", [["--candidates", "23"], ["--candidates", "all", "--dim", "64"]])
def test_a_run_names_its_doubtful_picks(folder, tiny_model, tmp_path, form):
    """Terminal, manifest and page say what follows from scores.parquet, where every row is picked."""
    target = ["--target", folder / "task.jsonl"]
    scores, totals, said, page = chosen(folder, tiny_model, tmp_path / "run", *LORA, *form, *target)
    fences = fences_of([(line["source"], line["loss"]) for line in scores])
    high = [line["id"] for line, fence in zip(scores, fences, strict=True) if line["picked"] and line["loss"] > fence]
    opposed = [line["id"] for line in scores if line["picked"] and line["target_conflict"] > OPPOSED]
    assert {"row-4\x1b[31m", "row-9"} <= set(high) and opposed, "the test is worth nothing otherwise"
    figures = []
    for name, ids in (("high_loss", high), ("opposed", opposed)):
        assert totals[name]["count"] == len(ids) and set(totals[name]["first"]) <= set(ids)
        assert len(totals[name]["first"]) == min(3, len(ids))
        named = ", ".join(totals[name]["first"]).replace("\x1b", "\ufffd") + (", ..." if len(ids) > 3 else "")
        figures.append(f"{len(ids)} of 46 picks ({named}): read them")
    against, above = figures[1], figures[0] + ", an answer may be wrong"
    assert said == [f"oppose the target         {against}", f"loss stays high           {above}"]
    table = page.partition('id="loss-table"')[2].partition("</table>")[0]
    assert table.count("<tr>") - 1 == len(high) and "its loss stays high: " in table
    assert "opposes the target" not in page, "opposed picks are wrong no more often than others"


def test_states_have_no_losses_and_random_rows_nothing(folder, tiny_model, tmp_path):
    """What is not known is null in the manifest, and neither terminal nor page mentions it."""
    scores, totals, said, page = chosen(folder, tiny_model, tmp_path / "states", "--features", "states")
    assert {line["loss"] for line in scores} == {None}
    assert totals["high_loss"] is totals["opposed"] is None and not said and "Doubtful picks" not in page
    _, totals, said, page = chosen(folder, tiny_model, tmp_path / "random", "--method", "random")
    assert totals["high_loss"] is totals["opposed"] is None and not said and "Doubtful picks" not in page
