"""Rows to check before training: most opposed to the picks, near-duplicates, far from similar rows, wrong answers.

benchmarks/audit.py measures what each list finds, and how much of it is right.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from spice_select.doubtful import LEAST_ROWS, doubtful_picks
from spice_select.information.features import own_blocks
from spice_select.information.mean_direction import CANCELLED
from spice_select.information.similar import similar_groups
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.types import Line
from spice_select.report.answers import suspects_of
from spice_select.report.content import Audit, DuplicateGroup, Finding, Findings
from spice_select.report.finished_run import FinishedRun, PoolGradients
from spice_select.report.row_stories import neighbours_of

LISTED = 100  # most entries of a list
DOUBTFUL = 20  # most doubtful picks that are listed
SHOWN = 50  # most rows of a group that are listed
SAME, SAME_OTHERS = 0.65, 0.98
"""Least cosine of two gradients whose rows count as near-duplicates, and that of other features: all rows of a pool
share much of their states, and the moments in their preconditioned gradients (pool_1k's unlike rows reach 0.96)."""
ROUNDING = 1e-6  # cosines of this size are rounding
FAR = 5.0  # robust standard deviations from rows of similar length and the same source that make a norm an outlier


def audit_of(run: FinishedRun, same: float | None = None) -> Audit | None:
    """Every list, worst first; None where no gradient was computed and no answer was checked.

    `same` is the least cosine of two near-duplicates; None for the default of the run's features.
    """
    suspects = suspects_of(run)
    if suspects is None and all(record.measures is None for record in run.records):
        return None
    usual = SAME if run.config.features == "gradients" else SAME_OTHERS
    duplicates = _duplicates(run, usual if same is None else same)
    bad = [row for record in run.records for row in record.bad]
    unusable = [Finding(run.lines[row.row], 0.0, f"{row.reason}, so it could not be chosen", []) for row in bad]
    outliers = [*unusable, *_outliers(run)]
    return Audit(
        scope=_scope(run),
        conflicts=_conflicts(run) if run.pools else None,
        duplicates=duplicates[:LISTED] if run.pools else None,
        groups=len(duplicates),
        outliers=Findings(len(outliers), outliers[:LISTED]),
        suspects=None if suspects is None else Findings(len(suspects), suspects[:LISTED]),
        doubtful=_doubtful(run),
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


def _conflicts(run: FinishedRun) -> Findings:
    """Rows whose gradient opposes the mean of the picks, the most opposed first, with the picks they oppose most."""
    pairs = (pair for pool in run.pools for pair in zip(pool.record.rows, _oppositions(pool), strict=True))
    opposed = sorted(((row, value) for row, value in pairs if value > ROUNDING), key=lambda item: (-item[1], item[0]))
    near = neighbours_of([row for row, _ in opposed[:LISTED]], run.pools, run.lines)
    listed: list[Finding] = []
    for row, value in opposed[:LISTED]:
        reason = f"its {run.noun} points away from the mean of the picks (cosine {-value:.3f})"
        listed.append(Finding(run.lines[row], value, reason, near.get(row, ([], []))[1]))
    return Findings(len(opposed), listed)


def _doubtful(run: FinishedRun) -> Findings | None:
    """Picks that oppose the target and those whose loss stays high, in turn; one that does both is listed twice."""
    against, high = doubtful_picks([line.source for line in run.lines], run.records)
    if against is None and high is None:
        return None
    reasons = (
        [(doubt, f"it opposes the target: conflict {doubt.value:.2f}") for doubt in against or []],
        [(doubt, f"its loss stays high: {doubt.value:.2f}, upper fence {doubt.limit:.2f}") for doubt in high or []],
    )
    found = [pair for pair in chain.from_iterable(zip_longest(*reasons)) if pair is not None]
    listed = [Finding(run.lines[doubt.row], doubt.value, reason, []) for doubt, reason in found[:DOUBTFUL]]
    return Findings(len(found), listed)


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


def _duplicates(run: FinishedRun, same: float) -> list[DuplicateGroup]:
    groups = [
        (sorted(pool.record.rows[member] for member in members), least)
        for pool in run.pools
        for members, least in similar_groups(pool.uncut, same)
    ]
    groups.sort(key=lambda group: (-len(group[0]), group[0]))
    return [DuplicateGroup(len(rows), [run.lines[row] for row in rows[:SHOWN]], least) for rows, least in groups]


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
