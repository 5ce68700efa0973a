"""The verdict of a page: its numbers are those of the tables below it, and its words follow from them."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles.report_pages import bare_report, empty_report, full_report
from spice_select.report.content import BALANCED_ROWS, RANDOM_ROWS, PoolPart
from spice_select.report.page import page
from spice_select.report.verdict import dropped, judged, verdict_of

NUMBER = re.compile(r"\u2212?[0-9][0-9,]*\.?[0-9]*%?")
REPORTS = {
    "full": lambda: full_report(hostile=False),
    "no target": lambda: replace(full_report(hostile=False), target=None),
    "longer": lambda: with_medians(full_report(hostile=False), 20.0, 41.5),
    "no gradients": empty_report,
    "bare": bare_report,
}


def with_medians(report, whole, kept):
    facts = [("median response", f"{kept:g} tokens", f"in the pool: {whole:g} tokens")]
    return replace(report, facts=facts, composition=replace(report.composition, median=whole, kept_median=kept))


@pytest.mark.parametrize("name", REPORTS)
def test_every_number_is_one_of_the_tables(name) -> None:
    """As it is written there: no number of the verdict is absent from the rest of the page, or rounded otherwise."""
    report = REPORTS[name]()
    text = page(report)
    head, rest = text.split('<section class="verdict"')
    verdict, rest = rest.split("</section>", 1)
    rest = re.sub(r'(?s)<div id="rows".*?</section>|data:image[^"]*', "", rest)  # a row's own numbers do not count
    below = {number.rstrip(".,") for number in NUMBER.findall(re.sub(r"<[^>]*>", " ", rest))}
    said = " ".join(statement.text for statement in verdict_of(report))
    numbers = {number.rstrip(".,") for number in NUMBER.findall(said)}
    assert numbers <= below | {"0"}
    assert all(number in verdict for number in numbers)
    assert len(verdict_of(report)) <= 5 and head


def test_of_the_full_report() -> None:
    """Coverage, information, diversity, what was dropped and length, in this order; each with what to do about it."""
    coverage, information, diversity, gone, length = verdict_of(full_report(hostile=False))
    assert coverage.text.startswith("The picks cover 39.0% of the target, random rows 21.0%: better.")
    assert "may gain nothing" in coverage.advice
    assert (
        "1.98 times that of random rows: better; 1.83 times that of random rows from sources in turn: better."
        in information.text
    )
    assert information.advice == ""
    assert "more diverse than random rows by every measure" in diversity.text
    assert "chats (0 of 22 rows)" in gone.text and "--quota chats=keep" in gone.advice
    assert "shorter than the pool's: a median of 18.5 tokens against 21." in length.text and "--scale" in length.advice


@pytest.mark.parametrize("rising", [True, False])
@pytest.mark.parametrize(("kept", "said"), [(12.0, "more"), (10.1, "as"), (8.0, "less")])
def test_diversity_is_said_plainly(rising: bool, kept: float, said: str) -> None:
    """Better, equal or worse by every measure is one sentence; only a worse one comes with an advice."""
    report = full_report(hostile=False)
    value = kept if rising else 20.0 - kept
    lines = [replace(line, kept=value, random=10.0, rising=rising) for line in report.diversity]
    (sentence,) = [one for one in verdict_of(replace(report, diversity=lines)) if "by every measure" in one.text]
    assert sentence.text.startswith(f"The picks are {said} ")
    assert bool(sentence.advice) == (said == "less")


def test_no_advice_names_an_option_that_the_choice_had() -> None:
    report = full_report(hostile=False)
    advice = " ".join(one.advice for one in verdict_of(replace(report, scale="unit")))
    assert "--scale" not in advice and "--candidates" not in advice and "--quota" in advice


VALUES = st.floats(0.01, 1e6)


@given(VALUES, VALUES, st.booleans())
def test_better_one_way_is_worse_the_other(value: float, other: float, rising: bool) -> None:
    """And a value is equal to itself."""
    opposite = {"better": "worse", "worse": "better", "equal": "equal"}
    assert judged(value, other, rising=not rising) == opposite[judged(value, other, rising=rising)]
    assert judged(value, value, rising=rising) == "equal"


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 200)), min_size=1, max_size=8))
def test_dropped_parts_have_no_pick_and_would_have_had_one(counts) -> None:
    """A part is dropped exactly if nothing of it was kept though its share of the picks is at least a row."""
    parts = [PoolPart(str(i), rows, min(rows, kept), 0, 0) for i, (rows, kept) in enumerate(counts)]
    share = sum(part.kept for part in parts) / sum(part.rows for part in parts)
    expected = [part for part in parts if part.kept == 0 and share * part.rows >= 1 - 1e-12 and share > 0]
    assert dropped(parts) == expected


def test_the_names_of_rivals_are_those_of_the_verdict() -> None:
    """Without random rows nothing is said of information."""
    report = full_report(hostile=False)
    assert {RANDOM_ROWS, BALANCED_ROWS} <= {rival.name for rival in report.theory.rivals}
    without = replace(report, theory=replace(report.theory, rivals=[]))
    assert not any("Information" in one.text for one in verdict_of(without))
