"""Several runs on the same pool, all measured on the same gradients.

Each run chose by gradients of its own, of a proxy that had trained on its own picks, or by none at all. Their choices
are comparable on one set of gradients only: those of the first run that has any, called the judge.
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from spice_select.config import RunConfig
from spice_select.errors import ConfigError
from spice_select.files.atomic import write_text
from spice_select.information import select_in_order
from spice_select.report.composition import diversity_of
from spice_select.report.content import ComparedRun, Comparison
from spice_select.report.drawing import write_figures
from spice_select.report.figures import comparison_plots
from spice_select.report.finished_run import FinishedRun, PoolGradients, open_run
from spice_select.report.page import comparison_page
from spice_select.report.theory import DRAWS, curve

PAGE = "comparison.html"
MOST_STEPS = 2000  # picks of one candidate pool that gain and conflict follow one by one
# options that have a column of their own, or that concern the machine only
NOT_SETTINGS = {"method", "device", "token_budget", "gradient_memory", "parquet", "skip_invalid", "on_bad_gradient"}

Choice = Sequence[tuple[PoolGradients, list[int]]]
"""The judge's pools, each with the places of a run's rows in it, in the order of picking."""


def compare(directories: Sequence[Path]) -> Comparison:
    """Measure the choices of several finished runs.

    Raises:
        ConfigError: fewer than two runs, or they did not choose from the same rows.
        OutputError: a directory holds no finished run.

    """
    if len(directories) < 2:
        raise ConfigError("compare needs at least two runs; name their directories.")
    runs, names = [open_run(directory) for directory in directories], _names(directories)
    for name, run in zip(names[1:], runs[1:], strict=True):
        _refuse_other_rows(names[0], runs[0], name, run)
    measured_by, judge = next(((name, run) for name, run in zip(names, runs, strict=True) if run.pools), (None, None))
    settings, picked = _settings([run.config for run in runs]), [run.picked for run in runs]
    compared = [_compared(*each, judge, picked) for each in zip(names, runs, settings, strict=True)]
    notes = ["No run has gradients, so information and conflict are not known."]
    if judge is not None and measured_by is not None:
        notes = _limits(judge, measured_by, picked)
    return Comparison(len(runs[0].lines), measured_by, compared, _sources(runs), notes)


def write(comparison: Comparison, directory: Path) -> list[Path]:
    """Write `comparison.html` and the figure of the gains into `directory`; earlier ones are replaced."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / PAGE, comparison_page(comparison))
    return [directory / PAGE, *write_figures(comparison_plots(comparison), directory)]


def _names(directories: Sequence[Path]) -> list[str]:
    """The names of the directories, or their paths where two have the same name."""
    names = [directory.resolve().name for directory in directories]
    return names if len(set(names)) == len(names) else [str(directory) for directory in directories]


def _refuse_other_rows(name: str, run: FinishedRun, other_name: str, other: FinishedRun) -> None:
    if [line.id for line in run.lines] != [line.id for line in other.lines]:
        raise ConfigError(
            f"{name} and {other_name} did not choose from the same rows ({len(run.lines):,} and {len(other.lines):,} "
            "usable ones).\nCompare runs on the same pool, read with the same options."
        )


def _choice(judge: FinishedRun, picked: Sequence[int]) -> Choice:
    pools: list[tuple[PoolGradients, list[int]]] = []
    for pool in judge.pools:
        places = {row: place for place, row in enumerate(pool.record.rows)}
        pools.append((pool, [places[row] for row in picked if row in places]))
    return pools


def _limits(judge: FinishedRun, name: str, choices: Sequence[Sequence[int]]) -> list[str]:
    """What the measures do not cover."""
    notes: list[str] = []
    known = {row for pool in judge.pools for row in pool.record.rows}
    if any(row not in known for picked in choices for row in picked):
        notes.append(f"Rows without gradients in {name} (excluded there, or not kept) are not measured.")
    if any(len(picks) > MOST_STEPS for picked in choices for _, picks in _choice(judge, picked)):
        notes.append(f"Gain and conflict cover the first {MOST_STEPS:,} picks of each candidate pool.")
    return notes


def _compared(
    name: str, run: FinishedRun, settings: str, judge: FinishedRun | None, choices: Sequence[Sequence[int]]
) -> ComparedRun:
    picked = run.picked
    tokens: list[int] = run.lines.trained_tokens[picked].tolist()
    nonempty = [] if judge is None else [(pool, picks) for pool, picks in _choice(judge, picked) if picks]
    seed = run.config.seed if judge is None else judge.config.seed
    penalty = run.config.penalty if judge is None else judge.config.penalty
    followed = [_followed(pool, picks, penalty) for pool, picks in nonempty]
    information = sum(pool.information(picks) for pool, picks in nonempty)
    by_chance = sum(float(pool.random_information(len(picks), DRAWS, seed).mean()) for pool, picks in nonempty)
    return ComparedRun(
        name=name,
        method=run.config.method,
        settings=settings,
        rows=len(picked),
        tokens=sum(tokens),
        median_tokens=float(statistics.median(tokens)) if tokens else 0.0,
        information=information if nonempty else None,
        random_information=by_chance if nonempty else None,
        conflict=statistics.fmean(value for _, conflict in followed for value in conflict) if nonempty else None,
        gain=curve([gain for gain, _ in followed]) if nonempty else None,
        diversity=diversity_of(nonempty, seed),
        shared=[len(set(picked) & set(other)) for other in choices],
    )


def _followed(pool: PoolGradients, picks: Sequence[int], penalty: float) -> tuple[list[float], list[float]]:
    """Gain and conflict of the first picks, in their order."""
    features = pool.scaled.take(torch.tensor(picks[:MOST_STEPS]))
    found = select_in_order(features @ features.T, range(len(features)), pool.measures.alpha, penalty)
    return cast("list[float]", found.gain.tolist()), cast("list[float]", found.conflict.tolist())


def _settings(configs: Sequence[RunConfig]) -> list[str]:
    """The options in which the runs differ, for each run."""
    dumps: list[dict[str, Any]] = [config.model_dump() for config in configs]
    keys = [key for key in dumps[0] if key not in NOT_SETTINGS]
    differing = [key for key in keys if len({repr(values[key]) for values in dumps}) > 1]
    return [", ".join(f"{key.replace('_', '-')} {values[key]}" for key in differing) for values in dumps]


def _sources(runs: Sequence[FinishedRun]) -> list[tuple[str, list[float]]]:
    """The share of each source among the rows of the pool, then of each run."""
    sources = [line.source for line in runs[0].lines]
    counts = [Counter(sources), *(Counter(sources[row] for row in run.picked) for run in runs)]
    return [(name, [count[name] / max(1, count.total()) for count in counts]) for name in sorted(set(sources))]
