"""The files of a study's outcome: its tables as Markdown and as values, and its figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from spice_select.files.atomic import write_text
from spice_select.files.records import write_json
from spice_select.pool.examples import Pool
from spice_select.study import figures
from spice_select.study.config import StudyConfig
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
) -> str:
    """Write table.md, lines.json and the figures; returns the content of the first.

    `untrained` are the losses of the held-out rows before any fine-tuning.
    """
    sources = Sources(_sources_by_id(heldout), Counter(line.source for line in pool.listing().lines))
    of_target = {name: TargetSources(sources.of, target.sources) for name, target in targets.items()}
    plain = lines([one for one in results if one.target is None], sources, config.baseline)
    by_target = {name: target_lines(results, name, of, config.baseline) for name, of in of_target.items()}
    overall = overall_lines(results, of_target, config.baseline, config.against) if targets else []
    remarks = [
        *sources.remarks(),
        *overlap_remarks(pool, heldout),
        *(text for one in targets.values() for text in one.remarks),
    ]
    parts = [markdown(plain, config.baseline, sources.macro(untrained), remarks)]
    parts += [
        target_markdown(name, table, config.baseline, of_target[name].on_target(untrained))
        for name, table in by_target.items()
    ]
    parts += [overall_markdown(overall, config.baseline, config.against)] if targets else []
    text = "\n".join(parts)
    write_text(directory / "table.md", text)
    values = {
        "cells": [asdict(line) for line in plain],
        "targets": {name: [asdict(line) for line in table] for name, table in by_target.items()},
        "all_targets": [asdict(line) for line in overall],
    }
    write_json(directory / "lines.json", values)
    figures.draw(plain, config.baseline, directory)
    figures.draw_targets(by_target, config.baseline, directory)
    return text


def _sources_by_id(heldout: Pool) -> dict[str, str]:
    return {line.id: line.source for line in heldout.listing().lines}
