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
from spice_select.option_values import NOUNS
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
NOT_SETTINGS = {"method", "device", "batch_tokens", "gradient_memory", "parquet", "skip_invalid", "on_bad_gradient"}

Choice = list[tuple[PoolGradients, list[int]]]
"""The judge's pools that hold rows of a run, each with the places of these rows, in the order of picking."""


def compare(directories: Sequence[Path]) -> Comparison:
    """Measure the choices of several finished runs.

    Raises `ConfigError` for fewer than two runs and for runs on different rows, `OutputError` where there is no run.
    """
    if len(directories) < 2:
        raise ConfigError("compare needs at least two runs; name their directories.")
    runs, names = [open_run(directory) for directory in directories], [path.resolve().name for path in directories]
    if len(set(names)) < len(names):
        names = [str(directory) for directory in directories]
    named = list(zip(names, runs, strict=True))
    for name, run in named[1:]:
        _refuse_other_rows(names[0], runs[0], name, run)
    measured_by, judge = next(((name, run) for name, run in named if run.pools), (None, runs[0]))
    choices = [_choice(judge, run.picked) for run in runs]
    each = zip(names, runs, _settings([run.config for run in runs]), choices, strict=True)
    compared = [_compared(name, run, settings, choice, judge.config, runs) for name, run, settings, choice in each]
    return Comparison(
        len(runs[0].lines), judge.noun, measured_by, compared, _sources(runs), _limits(measured_by, runs, choices)
    )


def write(comparison: Comparison, directory: Path) -> list[Path]:
    """Write `comparison.html` and the figure of the gains into `directory`; earlier ones are replaced."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / PAGE, comparison_page(comparison))
    return [directory / PAGE, *write_figures(comparison_plots(comparison), directory)]


def _refuse_other_rows(name: str, run: FinishedRun, other_name: str, other: FinishedRun) -> None:
    if [line.id for line in run.lines] != [line.id for line in other.lines]:
        raise ConfigError(
            f"{name} and {other_name} did not choose from the same rows ({len(run.lines):,} and {len(other.lines):,} "
            "usable ones).\nCompare runs on the same pool, read with the same options."
        )


def _choice(judge: FinishedRun, picked: Sequence[int]) -> Choice:
    pools: Choice = []
    for pool in judge.pools:
        places = {row: place for place, row in enumerate(pool.record.rows)}
        pools.append((pool, [places[row] for row in picked if row in places]))
    return [(pool, picks) for pool, picks in pools if picks]


def _limits(measured_by: str | None, runs: Sequence[FinishedRun], choices: Sequence[Choice]) -> list[str]:
    if measured_by is None:
        return ["No run has gradients, so information and conflict are not known."]
    notes: list[str] = []
    covered = [sum(len(picks) for _, picks in choice) for choice in choices]
    if any(count < len(run.picked) for count, run in zip(covered, runs, strict=True)):
        notes.append(f"Rows without gradients in {measured_by} (excluded there, or not kept) are not measured.")
    if any(len(picks) > MOST_STEPS for choice in choices for _, picks in choice):
        notes.append(f"Gain and conflict cover the first {MOST_STEPS:,} picks of each candidate pool.")
    return notes


def _compared(
    name: str, run: FinishedRun, settings: str, choice: Choice, judge: RunConfig, runs: Sequence[FinishedRun]
) -> ComparedRun:
    picked = run.picked
    tokens: list[int] = run.lines.trained_tokens[picked].tolist()
    followed = [_followed(pool, picks, judge.penalty) for pool, picks in choice]
    by_chance = sum(float(pool.random_information(picks, DRAWS, judge.seed).mean()) for pool, picks in choice)
    return ComparedRun(
        name=name,
        method=run.config.method,
        settings=settings,
        rows=len(picked),
        tokens=sum(tokens),
        median_tokens=float(statistics.median(tokens)) if tokens else 0.0,
        information=sum(pool.information(picks) for pool, picks in choice) if choice else None,
        random_information=by_chance if choice else None,
        conflict=statistics.fmean(value for _, conflict in followed for value in conflict) if choice else None,
        gain=curve([gain for gain, _ in followed]) if choice else None,
        diversity=diversity_of(choice, judge.seed, NOUNS[judge.features]),
        shared=[len(set(picked) & set(other.picked)) for other in runs],
    )


def _followed(pool: PoolGradients, picks: Sequence[int], penalty: float) -> tuple[list[float], list[float]]:
    features = pool.scaled.take(torch.tensor(picks[:MOST_STEPS]))
    found = select_in_order(features @ features.T, range(len(features)), pool.measures.alpha, penalty)
    return cast("list[float]", found.gain.tolist()), cast("list[float]", found.conflict.tolist())


def _settings(configs: Sequence[RunConfig]) -> list[str]:
    dumps: list[dict[str, Any]] = [config.model_dump() for config in configs]
    keys = [key for key in dumps[0] if key not in NOT_SETTINGS]
    differing = [key for key in keys if len({repr(values[key]) for values in dumps}) > 1]
    return [", ".join(f"{key.replace('_', '-')} {values[key]}" for key in differing) for values in dumps]


def _sources(runs: Sequence[FinishedRun]) -> list[tuple[str, list[float]]]:
    sources = [line.source for line in runs[0].lines]
    counts = [Counter(sources), *(Counter(sources[row] for row in run.picked) for run in runs)]
    return [(name, [count[name] / max(1, count.total()) for count in counts]) for name in sorted(set(sources))]
