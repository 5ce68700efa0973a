"""Rows to check before training: most opposed to the picks, near-duplicates, far from similar rows, wrong answers.

benchmarks/audit.py measures what each list finds, and how much of it is right.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from spice_select.doubtful import LEAST_ROWS, doubtful_picks
from spice_select.information.features import own_blocks
from spice_select.information.mean_direction import CANCELLED
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.types import Line
from spice_select.report.answers import suspects_of
from spice_select.report.content import Audit, Finding, Findings
from spice_select.report.duplicates import duplicates_of
from spice_select.report.finished_run import FinishedRun, PoolGradients
from spice_select.report.row_stories import neighbours_of

LISTED = 100  # most entries of a list
SHOWN = 50  # most rows of a group that are listed
ROUNDING = 1e-6  # cosines of this size are rounding
FAR = 5.0  # robust standard deviations from rows of similar length and the same source that make a norm an outlier


def audit_of(run: FinishedRun, same: float | None = None, *, whole: bool = False) -> Audit | None:
    """Every list, worst first; None where no gradient was computed and no answer was checked.

    `same` is the least cosine of two near-duplicates; None for the default of the run's features. Lists hold as many
    entries as a page or a terminal shows, or with `whole` all.
    """
    most, rows = (None, None) if whole else (LISTED, SHOWN)
    suspects = suspects_of(run)
    if suspects is None and all(record.measures is None for record in run.records):
        return None
    duplicates = duplicates_of(run, same, rows)
    bad = [row for record in run.records for row in record.bad]
    unusable = [Finding(run.lines[row.row], 0.0, f"{row.reason}, so it could not be chosen", []) for row in bad]
    outliers = [*unusable, *_outliers(run)]
    return Audit(
        scope=_scope(run),
        conflicts=_conflicts(run, most) if run.pools else None,
        duplicates=None if duplicates is None else duplicates[:most],
        groups=len(duplicates or []),
        outliers=Findings(len(outliers), outliers[:most]),
        suspects=None if suspects is None else Findings(len(suspects), suspects[:most]),
        doubtful=_doubtful(run, most),
    )


def _scope(run: FinishedRun) -> str:
    compared = sum(len(pool.record.rows) for pool in run.pools)
    if compared == 0:
        return " ".join([f"No {run.noun}s are available, so rows were not compared.", *run.missing])
    if len(run.pools) > 1:
        sentences = [
            f"Rows were compared within their candidate pool, one of {len(run.pools):,}; duplicates in different pools "
            "are not found. To compare all pairs, choose with --candidates all or from a store."
        ]
    else:
        sentences = ["Every row was compared with every other."]
    if compared < len(run.lines):
        sentences.append(f"{len(run.lines) - compared:,} rows were not compared.")
    return " ".join([*sentences, *run.missing])


def _of_rows(run: FinishedRun, quantity: str) -> dict[int, float]:
    return {
        row: value
        for record in run.records
        if record.measures is not None
        for row, value in zip(record.rows, getattr(record.measures, quantity), strict=True)
    }


def _conflicts(run: FinishedRun, most: int | None) -> Findings:
    """Rows whose gradient opposes the mean of the picks, the most opposed first, with the picks they oppose most."""
    pairs = (pair for pool in run.pools for pair in zip(pool.record.rows, _oppositions(pool), strict=True))
    opposed = sorted(((row, value) for row, value in pairs if value > ROUNDING), key=lambda item: (-item[1], item[0]))
    near = neighbours_of([row for row, _ in opposed[:most]], run.pools, run.lines)
    listed: list[Finding] = []
    for row, value in opposed[:most]:
        reason = f"its {run.noun} points away from the mean of the picks (cosine {-value:.3f})"
        listed.append(Finding(run.lines[row], value, reason, near.get(row, ([], []))[1]))
    return Findings(len(opposed), listed)


def _doubtful(run: FinishedRun, most: int | None) -> Findings | None:
    """Picks whose loss stays high; those that oppose a target are wrong no more often than others, and left out."""
    _, high = doubtful_picks([line.source for line in run.lines], run.records)
    if high is None:
        return None
    reason = "its loss stays high: {0.value:.2f}, upper fence {0.limit:.2f}"
    listed = [Finding(run.lines[doubt.row], doubt.value, reason.format(doubt), []) for doubt in high[:most]]
    return Findings(len(high), listed)


def _oppositions(pool: PoolGradients) -> list[float]:
    """-cos of each row's scaled gradient with the mean of the other picks and of given rows, in all directions, [m].

    Directions that the choice leaves out count here, so this is not the recorded conflict.
    """
    chosen = pool.uncut.take(torch.tensor(pool.record.picks))
    mean, held = chosen.sum(dim=0), 0.0  # and the squared norms of given rows
    for _, block in () if pool.uncut_given is None else own_blocks(pool.uncut_given):
        mean, held = mean + block.sum(dim=0), held + float(block.square().sum())
    parts = [torch.stack([block @ mean, block.square().sum(dim=1)]) for _, block in own_blocks(pool.uncut)]
    products, squared_norms = torch.cat(parts, dim=1)
    picks, squared_lengths = pool.record.picks, (mean @ mean).expand(len(products)).clone()
    squared_lengths[picks] = (mean - chosen).square().sum(dim=1)
    products[picks] -= squared_norms[picks]
    count = len(picks) + (0 if pool.uncut_given is None else pool.uncut_given.rows)
    directed = squared_lengths > CANCELLED**2 * count * (chosen.square().sum() + held)
    cosines = products * torch.where(directed, (squared_norms * squared_lengths).rsqrt(), 0.0)
    return cast("list[float]", (-cosines).nan_to_num(0.0, 0.0, 0.0).clamp(-1.0, 1.0).tolist())


def _outliers(run: FinishedRun) -> list[Finding]:
    """Zero gradients first, then norms far from those of rows of similar length and the same source."""
    norms, lines = _of_rows(run, "norm"), run.lines
    reason = f"its {run.noun} is zero" + (
        "" if run.config.features == "states" else ", so the model learns nothing from it"
    )
    zero = [Finding(lines[row], 0.0, reason, []) for row, norm in norms.items() if norm == 0]
    far: list[Finding] = []
    for rows in _by_source(norms, lines).values():
        residuals = _residuals(lines.trained_tokens[rows], [norms[row] for row in rows])
        for place in np.flatnonzero(np.abs(residuals) >= FAR):
            value = float(residuals[place])
            size = "larger" if value > 0 else "smaller"
            reason = (
                f"its {run.noun} is much {size} than those of rows of similar length and "
                f"the same source ({value:+.1f} standard deviations)"
            )
            far.append(Finding(lines[rows[place]], value, reason, []))
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


def _residuals(tokens: npt.NDArray[np.int32], norms: Sequence[float]) -> npt.NDArray[np.float64]:
    """Distance of log norm from its straight line over log tokens, in robust standard deviations (1.4826 MAD)."""
    x, y = np.log(tokens.astype(np.float64)), np.log(np.array(norms, dtype=np.float64))
    slope = np.polyfit(x, y, 1)[0] if np.ptp(x) > 0 else 0.0
    residual = y - slope * x
    residual -= np.median(residual)
    deviation = 1.4826 * float(np.median(np.abs(residual)))
    return residual / deviation if deviation > 0 else np.zeros_like(residual)


REASONS = ("duplicates", "loss", "answers", "outliers", "conflicts")
"""What the audit names rows for; `conflicts` where asked, since opposing rows are wrong no more often than others."""


def named_rows(audit: Audit, reasons: Sequence[str]) -> list[Line]:
    """The rows that are named for one of `reasons`, in the pool's order; one row of each group of duplicates is not.

    That is its first pick, or where nothing of it was picked its first row.
    """
    lists = {
        "loss": audit.doubtful,
        "answers": audit.suspects,
        "outliers": audit.outliers,
        "conflicts": audit.conflicts,
    }
    findings = [found for reason in reasons if (found := lists.get(reason)) is not None]
    lines = {finding.line.index: finding.line for found in findings for finding in found.listed}
    for group in (audit.duplicates or []) if "duplicates" in reasons else []:
        kept = next(iter(group.picks), group.lines[0].index)
        lines |= {line.index: line for line in group.lines if line.index != kept}
    return [lines[row] for row in sorted(lines)]
