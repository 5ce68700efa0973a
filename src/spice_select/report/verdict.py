"""The verdict of a page: three to five sentences made from a report's numbers, each with what to do, if anything.

Every number of a sentence also stands in the page's tables and tiles, rounded as there.
"""

import re
from collections.abc import Sequence

from spice_select.report.content import (
    BALANCED_ROWS,
    RANDOM_ROWS,
    Composition,
    Diversity,
    PoolPart,
    SelectionReport,
    Statement,
    TargetStory,
    Theory,
)
from spice_select.report.numbers import number, ratio, share

EQUAL = 0.02  # values that differ by less than this share count as equal
SHIFT = 0.1  # a median length that differs by less is no shift
NAMED = 3  # dropped parts that are named


def verdict_of(report: SelectionReport) -> list[Statement]:
    """The sentences, most important first; what was not measured is said to be so."""
    parts, theory = report.composition, report.theory
    found = [
        _nothing_measured() if theory is None and report.target is None else None,
        _coverage(report.target) if report.target else _certificate(theory) if theory else None,
        _information(theory) if theory else None,
        _diversity(report),
        _dropped(report),
        _length(parts, report),
    ]
    return [statement for statement in found if statement is not None]


def judged(value: float, other: float, *, rising: bool = True) -> str:
    """Say whether it is better than `other`, equal or worse; with `rising`, higher is better."""
    if abs(value - other) <= EQUAL * abs(other):
        return "equal"
    return "better" if (value > other) == rising else "worse"


def dropped(parts: Sequence[PoolPart]) -> list[PoolPart]:
    """Parts of which no row was kept, where the pool's share would be a row or more."""
    rows, kept = sum(part.rows for part in parts), sum(part.kept for part in parts)
    return [part for part in parts if part.kept == 0 and part.rows * kept >= max(rows, 1)]


def _nothing_measured() -> Statement:
    return Statement(
        "This choice was not measured against random rows, because the run computed no gradients.",
        "`spice-select compare` measures it beside a run that did.",
    )


def _coverage(target: TargetStory) -> Statement:
    against = judged(target.picks, target.random)
    text = (
        f"The picks cover {share(target.picks)} of the target, random rows {share(target.random)}: {against}. "
        f"The whole pool covers {share(target.whole)}."
    )
    if not target.gains:
        return Statement(text, "Choosing by this target may gain nothing here: add rows like it to the pool.")
    return Statement(
        text, "Collect rows like the target rows that the pool lacks, named below." if target.unlike else ""
    )


def _certificate(theory: Theory) -> Statement | None:
    if theory.certificate <= 0 or not theory.gain.picks:
        return None
    return Statement(
        "Certificate: no choice of the same size and quota from the same candidate pools can hold more than "
        f"{ratio(1.0, theory.certificate)} times the picks' information, as the choice measures it."
    )


def _information(theory: Theory) -> Statement | None:
    rivals = {rival.name: rival for rival in theory.rivals}
    chance, balanced = rivals.get(RANDOM_ROWS), rivals.get(BALANCED_ROWS)
    if chance is None or chance.information <= 0:
        return None
    found = judged(theory.compared, chance.information)
    text = f"Information is {ratio(theory.compared, chance.information)} times that of random rows: {found}"
    if balanced is not None and balanced.information > 0:
        against = judged(theory.compared, balanced.information)
        times = ratio(theory.compared, balanced.information)
        text += f"; {times} times that of random rows from sources in turn: {against}"
    return Statement(f"{text}.", "" if found == "better" else "Random rows would do as well: use `--method random`.")


def _diversity(report: SelectionReport) -> Statement | None:
    if not report.diversity:
        return None
    verdicts = [judged(line.kept, line.random, rising=line.rising) for line in report.diversity]
    figures = [_figures(line, found) for line, found in zip(report.diversity, verdicts, strict=True)]
    text = f"Diversity against random rows: {', '.join(figures)}."
    if len(set(verdicts)) == 1 and len(verdicts) > 1:
        plain = {"better": "more diverse than", "equal": "as diverse as", "worse": "less diverse than"}[verdicts[0]]
        figures = [_figures(line, None) for line in report.diversity]
        text = f"The picks are {plain} random rows by every measure: {', '.join(figures)}."
    if "worse" not in verdicts:
        return Statement(text)
    scale = [] if report.noun == "state" or report.scale == "unit" else ["`--scale unit`"]
    quota = ["`--quota proportional`"] if len(report.composition.sources) > 1 else []
    return Statement(text, f"If breadth matters more, try {', or '.join([*scale, *quota])}." if scale or quota else "")


def _figures(line: Diversity, verdict: str | None) -> str:
    found = [*([] if line.rising else ["low is diverse"]), *([verdict] if verdict else [])]
    return f"{line.name} {number(line.kept)} against {number(line.random)}" + (
        f" ({', '.join(found)})" if found else ""
    )


def _dropped(report: SelectionReport) -> Statement | None:
    parts = report.composition
    if len(parts.sources) < 2:
        return None
    gone = dropped(parts.sources)
    kinds = [*gone, *dropped([part for part in parts.languages if len(part.name) == 2])]
    if not kinds:
        return Statement("No source was dropped.")
    named = [f"{part.name} (0 of {part.rows:,} rows)" for part in kinds[:NAMED]]
    more = f" and {len(kinds) - NAMED:,} more" if len(kinds) > NAMED else ""
    one = gone[0].name if gone and re.fullmatch(r"[\w.-]+", gone[0].name) else "SOURCE"
    advice = f"To keep a source's share: `--quota {one}=keep`." if gone else ""
    return Statement(f"Dropped: {', '.join(named)}{more}.", advice)


def _length(parts: Composition, report: SelectionReport) -> Statement | None:
    kept, whole = parts.kept_median, parts.median
    if not kept or not whole:
        return None
    change = kept / whole - 1
    longer = "longer than" if change >= SHIFT else "shorter than" if change <= -SHIFT else "about as long as"
    text = f"Answers of the picks are {longer} the pool's: a median of {kept:g} tokens against {whole:g}."
    shorter = change <= -SHIFT and report.theory is not None and report.noun != "state" and report.scale != "unit"
    return Statement(
        text, "For longer answers: `--scale unit`, or `--target` with rows as long as you want." if shorter else ""
    )
