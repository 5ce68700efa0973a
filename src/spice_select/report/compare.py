"""Several runs on the same pool, all measured by the same gradients.

Each run chose by gradients of its own, of a proxy that had trained on its own picks, or by none at all. What they
chose is comparable only on one set of gradients: those of the first run that has any.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from spice_select.config import RunConfig
from spice_select.errors import ConfigError
from spice_select.files.atomic import write_text
from spice_select.information import random_draws, second_moment, select_in_order, subset_information
from spice_select.report.comparison import Comparison, Contender
from spice_select.report.content import Diversity
from spice_select.report.decay import draw_decays
from spice_select.report.diversity import diversity_of
from spice_select.report.evidence import Evidence, PoolEvidence, open_run
from spice_select.report.page import comparison_page
from spice_select.report.theory import DRAWS, curve

PAGE = "comparison.html"

MOST_STEPS = 2000
"""Picks of one candidate pool that are followed one by one."""

NOT_SETTINGS = {"method", "device", "token_budget", "gradient_memory", "parquet", "skip_invalid", "on_bad_gradient"}
"""Options that are told apart from the settings, or that only concern the machine."""


def compare(directories: Sequence[Path]) -> Comparison:
    """Measure the choices of several finished runs.

    Raises:
        ConfigError: fewer than two runs, or they did not choose from the same rows.
        OutputError: a directory holds no finished run.

    """
    if len(directories) < 2:
        raise ConfigError("compare needs at least two runs; name their directories.")
    runs = [open_run(directory) for directory in directories]
    names = _names(directories)
    for name, run in zip(names[1:], runs[1:], strict=True):
        _refuse_other_rows(names[0], runs[0], name, run)
    judge = next((place for place, run in enumerate(runs) if run.pools), None)
    notes = [] if judge is not None else ["No run has gradients: information and conflict are not known."]
    tallies = [_Tally() for _ in runs]
    if judge is not None:
        _measure(runs[judge], [run.picked for run in runs], tallies)
        notes += _limits(names[judge], runs, tallies)
    settings = _settings([run.config for run in runs])
    contenders = [
        _contender(name, run, told, tally, [other.picked for other in runs])
        for name, run, told, tally in zip(names, runs, settings, tallies, strict=True)
    ]
    return Comparison(len(runs[0].lines), None if judge is None else names[judge], contenders, _sources(runs), notes)


def _names(directories: Sequence[Path]) -> list[str]:
    """The directories' names, or their paths where two have one name."""
    names = [directory.resolve().name for directory in directories]
    return names if len(set(names)) == len(names) else [str(directory) for directory in directories]


def _refuse_other_rows(name: str, run: Evidence, other_name: str, other: Evidence) -> None:
    if [line.id for line in run.lines] == [line.id for line in other.lines]:
        return
    raise ConfigError(
        f"{name} and {other_name} did not choose from the same rows ({len(run.lines):,} usable ones, and "
        f"{len(other.lines):,}).\nCompare runs on the same pool, read with the same options."
    )


@dataclass(slots=True)
class _Tally:
    """What is known of one run's rows on the judge's gradients, pool by pool."""

    information: float = 0.0
    random: float = 0.0
    measured: int = 0  # rows that have gradients there
    conflicts: list[float] = field(default_factory=list[float])
    gains: list[list[float]] = field(default_factory=list[list[float]])
    diversity: list[Diversity] = field(default_factory=list[Diversity])


def _measure(judge: Evidence, choices: Sequence[Sequence[int]], tallies: Sequence[_Tally]) -> None:
    for pool in judge.pools:
        for chosen, tally in zip(choices, tallies, strict=True):
            _add(pool, _within(pool, chosen), tally, judge.config)
    for chosen, tally in zip(choices, tallies, strict=True):
        tally.diversity = diversity_of([(pool, _within(pool, chosen)) for pool in judge.pools], judge.config.seed)


def _limits(judge: str, runs: Sequence[Evidence], tallies: Sequence[_Tally]) -> list[str]:
    """What the measures do not cover."""
    notes: list[str] = []
    if any(tally.measured < len(run.picked) for run, tally in zip(runs, tallies, strict=True)):
        notes.append(f"Rows of which {judge} has no gradients (left out there, or not kept) are not measured.")
    if any(len(gains) == MOST_STEPS for tally in tallies for gains in tally.gains):
        notes.append(f"Gain and conflict are followed over the first {MOST_STEPS:,} picks of a candidate pool.")
    return notes


def _within(pool: PoolEvidence, chosen: Iterable[int]) -> list[int]:
    """Places in a pool of those of `chosen` rows that belong to it, in the order of picking."""
    place = {row: i for i, row in enumerate(pool.record.rows)}
    return [place[row] for row in chosen if row in place]


def _add(pool: PoolEvidence, picks: Sequence[int], tally: _Tally, config: RunConfig) -> None:
    if not picks:
        return
    rows = torch.tensor(picks)
    tally.measured += len(picks)
    before = None if pool.given is None else second_moment(pool.given)
    generator = torch.Generator().manual_seed(config.seed + pool.record.pool)
    tally.information += subset_information(pool.seen, rows, pool.alpha, before)
    by_chance = random_draws(pool.seen, len(picks), pool.alpha, DRAWS, generator, pool.given)
    tally.random += float(by_chance.mean())
    followed = pool.seen.take(rows[:MOST_STEPS])
    found = select_in_order(followed @ followed.T, range(len(followed)), pool.alpha, config.penalty)
    tally.gains.append(cast("list[float]", found.gain.tolist()))
    tally.conflicts += cast("list[float]", found.conflict.tolist())


def _contender(name: str, run: Evidence, settings: str, tally: _Tally, choices: Sequence[Sequence[int]]) -> Contender:
    picked = run.picked
    tokens = [run.lines[row].trained_tokens for row in picked]
    measured = bool(tally.gains)
    return Contender(
        name=name,
        method=run.config.method,
        settings=settings,
        rows=len(picked),
        tokens=sum(tokens),
        median_tokens=float(statistics.median(tokens)) if tokens else 0.0,
        information=tally.information if measured else None,
        random_information=tally.random if measured else None,
        conflict=statistics.fmean(tally.conflicts) if measured else None,
        gain=curve(tally.gains) if measured else None,
        diversity=tally.diversity,
        shared=[len(set(picked) & set(other)) for other in choices],
    )


def _settings(configs: Sequence[RunConfig]) -> list[str]:
    """What differs, for each run."""
    dumps: list[dict[str, Any]] = [config.model_dump() for config in configs]
    differing = [
        key for key in dumps[0] if key not in NOT_SETTINGS and len({repr(values[key]) for values in dumps}) > 1
    ]
    return [", ".join(f"{key.replace('_', '-')} {values[key]}" for key in differing) for values in dumps]


def _sources(runs: Sequence[Evidence]) -> list[tuple[str, list[float]]]:
    """Share of each source among the rows of the pool, then of each run."""
    lines = runs[0].lines
    groups = [list(range(len(lines))), *(run.picked for run in runs)]
    names = sorted({line.source for line in lines})
    counts = [Counter(lines[row].source for row in rows) for rows in groups]
    return [(name, [count[name] / max(1, count.total()) for count in counts]) for name in names]


def write(comparison: Comparison, directory: Path) -> list[Path]:
    """Write `comparison.html` and the figure of the decays into `directory`; earlier ones are replaced."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / PAGE, comparison_page(comparison))
    return [directory / PAGE, *draw_decays(comparison, directory)]
