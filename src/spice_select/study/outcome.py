"""The files of a study's outcome: its tables as Markdown and as values, and its figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from spice_select.files.atomic import write_text
from spice_select.files.records import write_json
from spice_select.pool.examples import Pool
from spice_select.study import figures
from spice_select.study.cells import UNTRAINED, followers
from spice_select.study.config import StudyConfig
from spice_select.study.cost_table import cost_lines, cost_markdown
from spice_select.study.table import CellResult, Sources, lines, markdown, overlap_remarks
from spice_select.study.target_table import (
    TargetSources,
    overall_lines,
    overall_markdown,
    target_lines,
    target_markdown,
)
from spice_select.study.targets import TargetRows


def write_outcome(
    config: StudyConfig,
    directory: Path,
    pool: Pool,
    heldout: Pool,
    targets: Mapping[str, TargetRows],
    results: Sequence[CellResult],
    untrained: Mapping[str, float],
    rates: Mapping[float, float | None],
) -> str:
    """Write table.md, lines.json and the figures; returns the content of the first.

    `untrained` are the losses of the held-out rows before any fine-tuning; `rates` the learning rates that were tried,
    with the baseline's loss at seed 0.
    """
    sources = Sources(sources_by_id(heldout), Counter(line.source for line in pool.listing().lines))
    of_target = {name: TargetSources(sources.of, target.sources) for name, target in targets.items()}
    equal, base = followers(config.cells), config.baseline
    controls = equal.values()
    plain = lines([one for one in results if one.target is None], sources, base, untrained, equal)
    by_target = {
        name: target_lines(results, name, of, base, untrained, controls) for name, of in of_target.items()
    }  # fmt: skip
    overall = overall_lines(results, of_target, base, config.against, controls) if targets else []
    costs = cost_lines(results, base)
    remarks = [
        *_rate_remarks(rates, base),
        *sources.remarks(),
        *overlap_remarks(pool, heldout),
        *(text for one in targets.values() for text in one.remarks),
    ]
    parts = [markdown(plain, base, remarks)]
    parts += [target_markdown(name, table, base) for name, table in by_target.items()]
    parts += [overall_markdown(overall, base, config.against)] if targets else []
    parts += [cost_markdown(costs, base)]
    text = "\n".join(parts)
    write_text(directory / "table.md", text)
    values = {
        "cells": [asdict(line) for line in plain],
        "targets": {name: [asdict(line) for line in table] for name, table in by_target.items()},
        "all_targets": [asdict(line) for line in overall],
        "cost": [asdict(line) for line in costs],
        "learning_rates": {f"{rate:g}": loss for rate, loss in rates.items()},
    }
    write_json(directory / "lines.json", values)
    cells = [line for line in plain if line.cell != UNTRAINED]  # which is too far away to be shown with them
    figures.draw(cells, base, directory)
    figures.draw_costs(cells, costs, base, directory)
    trained = {name: [line for line in table if line.cell != UNTRAINED] for name, table in by_target.items()}
    figures.draw_targets(trained, base, directory)
    return text


def _rate_remarks(rates: Mapping[float, float | None], baseline: str) -> list[str]:
    losses = {rate: "diverged" if loss is None else f"{loss:.4f}" for rate, loss in rates.items()}
    tried = ", ".join(f"{rate:g} ({loss})" for rate, loss in losses.items())
    return [f"Learning rate: that of the lowest macro loss for {baseline} at seed 0, of {tried}."] if rates else []


def sources_by_id(heldout: Pool) -> dict[str, str]:
    """The source of each held-out row."""
    return {line.id: line.source for line in heldout.listing().lines}
