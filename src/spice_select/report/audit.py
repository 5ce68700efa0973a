"""Rows to look at before training on them: most opposed to the picks, nearly the same, far from rows like them.

What each list finds, and how much of it is right, benchmarks/audit.py measures.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from spice_select.choices import PoolRecord
from spice_select.information.similar import similar_groups
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.types import Line
from spice_select.report.answers import answers_known, suspects_of
from spice_select.report.content import Audit, Finding, Findings, Group, Neighbour
from spice_select.report.evidence import Evidence, PoolEvidence
from spice_select.report.stories import Near, neighbours_of

LISTED = 100
"""Most entries of a list."""

SHOWN = 50
"""Most rows of a group that are listed."""

SAME = 0.65
"""Cosine of two gradients from which on rows count as nearly the same; benchmarks/audit.py measures what that finds."""

FAR = 5.0
"""Robust standard deviations from rows as long, of the same source, from which on a norm is an outlier."""

LEAST_ROWS = 8
"""Rows of a source below which nothing is said of how they usually are."""

Numbers = npt.NDArray[np.float64]


def audit_of(evidence: Evidence, same: float = SAME) -> Audit | None:
    """Everything, worst first; None where no gradient was computed.

    Args:
        evidence: of a finished run.
        same: least cosine of two rows that count as nearly the same.

    """
    if all(record.measures is None for record in evidence.records) and not answers_known(evidence):
        return None
    lines, records = evidence.lines, evidence.records
    opposed = _opposed(records)
    worst = opposed[:LISTED]
    near = neighbours_of([row for row, _ in worst], evidence.pools, lines)
    duplicates = _duplicates(evidence.pools, lines, same)
    norms = {row: norm for record in records for row, norm in _norms(record)}
    return Audit(
        scope=_scope(evidence),
        conflicts=Findings(len(opposed), [_conflict(row, value, lines, near) for row, value in worst]),
        duplicates=duplicates[:LISTED] if evidence.pools else None,
        groups=len(duplicates),
        outliers=_worst([*_without_norm(records, lines), *_outliers(norms, lines)]),
        suspects=_worst(suspects_of(evidence)),
    )


def _worst(found: Sequence[Finding]) -> Findings:
    return Findings(len(found), found[:LISTED])


def _scope(evidence: Evidence) -> str:
    rows = sum(len(pool.record.rows) for pool in evidence.pools)
    if rows == 0:
        return " ".join(["No gradients are there: rows were not compared.", *evidence.missing])
    left = len(evidence.lines) - rows
    said = ["" if left == 0 else f"{left:,} rows were not compared at all.", *evidence.missing]
    if len(evidence.pools) > 1:
        how = (
            f"Rows were compared within their candidate pool, one of {len(evidence.pools):,}: duplicates in two pools "
            "are not seen. For all pairs choose with --pool-size all, or from a gradient store."
        )
    else:
        how = "Every row was compared with every other."
    return " ".join(filter(None, [how, *said]))


def _norms(record: PoolRecord) -> Iterable[tuple[int, float]]:
    return [] if record.measures is None else zip(record.rows, record.measures.norm, strict=True)


def _opposed(records: Sequence[PoolRecord]) -> list[tuple[int, float]]:
    """Rows with a conflict above 0, the largest first."""
    conflicts = [
        (row, value)
        for record in records
        if record.measures is not None
        for row, value in zip(record.rows, record.measures.conflict, strict=True)
        if value > 0
    ]
    return sorted(conflicts, key=lambda item: (-item[1], item[0]))


def _conflict(row: int, value: float, lines: Sequence[Line], near: Mapping[int, Near]) -> Finding:
    reason = f"its gradient points away from the mean of the picks (cosine {-value:.3f})"
    return _finding(lines[row], value, reason, near.get(row, ([], []))[1])


def _finding(line: Line, value: float, reason: str, others: Sequence[Neighbour] = ()) -> Finding:
    return Finding(line.index, line.id, line.source, line.location, value, reason, others)


def _duplicates(pools: Sequence[PoolEvidence], lines: Sequence[Line], same: float) -> list[Group]:
    """Groups of rows linked by cosines of at least `same`, largest first."""
    groups = [
        (sorted(pool.record.rows[member] for member in members), least)
        for pool in pools
        for members, least in similar_groups(pool.plain, same)
    ]
    groups.sort(key=lambda group: (-len(group[0]), group[0]))
    return [_group(rows, least, lines) for rows, least in groups]


def _group(rows: Sequence[int], least: float, lines: Sequence[Line]) -> Group:
    shown = rows[:SHOWN]
    return Group(len(rows), shown, [lines[row].id for row in shown], [lines[row].source for row in shown], least)


def _without_norm(records: Sequence[PoolRecord], lines: Rows[Line]) -> list[Finding]:
    """Rows that could not be chosen."""
    return [_finding(lines[bad.row], 0.0, f"{bad.reason}: it could not be chosen") for r in records for bad in r.bad]


def _outliers(norms: Mapping[int, float], lines: Rows[Line]) -> list[Finding]:
    """Zero gradients first, then norms far from those of rows as long, of the same source."""
    zero = [
        _finding(lines[row], 0.0, "its gradient is zero: nothing is learnt from it")
        for row, norm in norms.items()
        if norm == 0
    ]
    far: list[Finding] = []
    for rows in _by_source(norms, lines).values():
        residuals = _residuals(lines.trained_tokens[rows], [norms[row] for row in rows])
        for row, value in zip(rows, residuals.tolist(), strict=True):
            if abs(value) >= FAR:
                size = "larger" if value > 0 else "smaller"
                reason = (
                    f"its gradient is far {size} than those of rows of its length and source ({value:+.1f} deviations)"
                )
                far.append(_finding(lines[row], value, reason))
    return [*zero, *sorted(far, key=lambda finding: -abs(finding.value))]


def _by_source(norms: Mapping[int, float], lines: Rows[Line]) -> dict[str, list[int]]:
    """Rows with a gradient, by source; small sources together."""
    groups: dict[str, list[int]] = {}
    for row, line in enumerate(lines):
        if norms.get(row, 0.0) > 0:
            groups.setdefault(line.source, []).append(row)
    small = [name for name, rows in groups.items() if len(rows) < LEAST_ROWS]
    rest = sorted(row for name in small for row in groups.pop(name))
    return {**groups, "": rest} if len(rest) >= LEAST_ROWS else groups


def _residuals(tokens: npt.NDArray[np.int32], norms: Sequence[float]) -> Numbers:
    """Log norm beside its straight line over log tokens, in robust standard deviations (1.4826 MAD)."""
    x, y = np.log(tokens.astype(np.float64)), np.log(np.array(norms, dtype=np.float64))
    slope = np.polyfit(x, y, 1)[0] if np.ptp(x) > 0 else 0.0
    residual = y - slope * x
    residual -= np.median(residual)
    deviation = 1.4826 * float(np.median(np.abs(residual)))
    return residual / deviation if deviation > 0 else np.zeros_like(residual)
