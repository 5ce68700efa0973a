"""The figures of a finished run, from its records; the terminal shows them, the manifest keeps them."""

import statistics
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from spice_select.choices import AllDirections, PoolRecord, TargetCoverage, all_directions, target_coverage
from spice_select.doubtful import Doubt, doubtful_picks
from spice_select.pool.types import Line

NAMED = 3  # doubtful picks of a kind that are named


@dataclass(frozen=True, slots=True)
class SourceShare:
    """Rows and trained tokens of one source, and how many of them were kept."""

    source: str
    rows: int
    kept: int
    tokens: int
    kept_tokens: int


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures that need gradients. Information is in nats, summed over pools.

    `certificate` is sum of U over sum of bounds: at least this share of the U, in the directions that rows were chosen
    by, of the best picks of the same size and quota in the same pools. `all_directions` holds U in all of them.
    """

    information: float
    random_information: float
    certificate: float
    lowest_certificate: float
    mean_conflict: float
    norm_overlap: float
    all_directions: AllDirections | None


@dataclass(frozen=True, slots=True)
class Doubts:
    """Doubtful picks of a kind: how many, and the ids of up to `NAMED`, the most doubtful first."""

    count: int
    first: list[str]


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished run in figures.

    `not_finite` counts rows whose loss or gradient is not finite, `leaks` those left out because they equal a target
    row; `coverage` and `opposed`, the picks that oppose the target, are None without one; `high_loss`, those whose loss
    stays high, is None where no loss is known.
    """

    rows: int
    budget: int
    kept: int
    early_stops: int
    not_finite: int
    sources: list[SourceShare]
    median_tokens: float
    kept_median_tokens: float
    quality: Quality | None
    coverage: TargetCoverage | None = None
    leaks: int = 0
    opposed: Doubts | None = None
    high_loss: Doubts | None = None


def summarise(lines: Sequence[Line], records: Sequence[PoolRecord]) -> Summary:
    """Figures of the selection that `records` describe."""
    picked = {row for record in records for row in record.picked_rows}
    lengths = array("i", (line.trained_tokens for line in lines))
    kept_lengths = [lengths[row] for row in picked]
    doubtful = doubtful_picks([line.source for line in lines], records)
    return Summary(
        rows=len(lines),
        budget=sum(record.quota for record in records),
        kept=len(picked),
        early_stops=sum(record.stopped_early for record in records),
        not_finite=sum(len(record.bad) for record in records),
        sources=_shares(lines, picked),
        median_tokens=statistics.median(lengths),
        kept_median_tokens=statistics.median(kept_lengths) if kept_lengths else 0.0,
        quality=_quality(records),
        coverage=target_coverage(records),
        leaks=sum(len(record.leaks) for record in records),
        opposed=_doubts(doubtful.opposed, lines),
        high_loss=_doubts(doubtful.high_loss, lines),
    )


def essentials(summary: Summary) -> dict[str, str]:
    """The few figures that say what was kept and how good it is, as texts by their names."""
    kept, tokens = (sum(getattr(source, name) for source in summary.sources) for name in ("kept_tokens", "tokens"))
    found = {
        "rows kept": f"{summary.kept:,} of {summary.rows:,}",
        "trained tokens": f"{kept:,} of {tokens:,}",
    }
    if (covered := summary.coverage) is not None:
        shares = (
            f"{covered.picks:.1%} by the picks, {covered.whole:.1%} by the whole pool, {covered.random:.1%} by random"
        )
        found |= {"coverage of the target": f"{shares} rows", "target explained": f"{covered.certificate:.1%}"}
    if (quality := summary.quality) is not None:
        random = f"random rows {quality.random_information:.2f}"
        found |= {
            "information U": f"{quality.information:.2f} nats; {random}",
            "certificate": f"at least {quality.certificate:.1%} of the best possible U",
        }
    return found


def _doubts(found: list[Doubt] | None, lines: Sequence[Line]) -> Doubts | None:
    return None if found is None else Doubts(len(found), [lines[doubt.row].id for doubt in found[:NAMED]])


def _shares(lines: Sequence[Line], picked: set[int]) -> list[SourceShare]:
    rows, kept, tokens, kept_tokens = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for line in lines:
        rows[line.source] += 1
        tokens[line.source] += line.trained_tokens
        if line.index in picked:
            kept[line.source] += 1
            kept_tokens[line.source] += line.trained_tokens
    return [SourceShare(name, rows[name], kept[name], tokens[name], kept_tokens[name]) for name in sorted(rows)]


def _quality(records: Sequence[PoolRecord]) -> Quality | None:
    measured = [(record, record.measures) for record in records if record.measures is not None]
    if not measured:
        return None
    information = sum(m.information for _, m in measured)
    bound = sum(m.bound for _, m in measured)
    conflicts = [m.conflict[i] for record, m in measured for i in record.picks]
    picks = sum(len(record.picks) for record, _ in measured)
    overlap = sum(len({*m.largest_norms(len(record.picks))} & {*record.picks}) for record, m in measured)
    return Quality(
        information=information,
        random_information=sum(m.random_information for _, m in measured),
        certificate=information / bound if bound > 0 else 1.0,
        lowest_certificate=min(m.certificate for _, m in measured),
        mean_conflict=statistics.fmean(conflicts) if conflicts else 0.0,
        norm_overlap=overlap / picks if picks else 0.0,
        all_directions=all_directions([m for _, m in measured]),
    )
