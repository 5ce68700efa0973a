"""Objectives that weigh directions by the pool's energy in them, beside the default among all rows.

    python benchmarks/pool_objectives.py benchmarks/study/methods_1k.yaml --pool POOL --heldout HELDOUT --output DIR

DIR is the directory of that study, whose Gram matrix K of the default's gradients is read; K is scaled as the default
does. With the pool as its own target, A = V L V^T is its mean outer product, and features L^(p/2) V^T g have the Gram
matrix K^(1+p) up to a factor: p = 0 is information in all directions, a larger p favours what many rows share.
Posterior variance leaves least of the pool's own. Picks are fine-tuned on and measured as the study does, at each seed
of its random rows that is finished. Writes its section of benchmarks/RESULTS.md.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from mixed_features import losses_of

from report import machine, write_section
from spice_select import select_from_features, select_from_gram
from spice_select.information import Gram, Target, gram_features, relative_alpha
from spice_select.progress import NoProgress
from spice_select.schedule.pick_in_pool import scaled_gram_of
from spice_select.study.choices import Unit
from spice_select.study.config import load_study
from spice_select.study.gram import shared_gram
from spice_select.study.intervals import interval, paired
from spice_select.study.outcome import sources_by_id
from spice_select.study.run import Study, read_study
from spice_select.study.table import Sources


def by_energy(p: float) -> Callable[[Gram, int], list[int]]:
    """Information of features L^(p/2) V^T g."""

    def pick(gram: Gram, count: int) -> list[int]:
        values, vectors = gram.spectrum
        power = (values.clamp(min=0) / values.max()) ** (1 + p)
        directed = (vectors * power) @ vectors.T
        return select_from_gram(directed, count, relative_alpha(directed, 1.0)).indices

    return pick


def by_variance(gram: Gram, count: int) -> list[int]:
    """Posterior variance of the pool's rows."""
    features = gram_features(gram)
    return select_from_features(features, count, relative_alpha(gram, 1.0), target=Target(features)).indices


OBJECTIVES: dict[str, Callable[[Gram, int], list[int]]] = {
    "energy, p = 1": by_energy(1),
    "energy, p = 2": by_energy(2),
    "posterior variance": by_variance,
}


def measured(study: Study, seeds: list[int], sources: Sources) -> dict[str, dict[int, float]]:
    """Objective -> seed -> held-out macro loss."""
    config, pool = study.config.run_config("default", 0), study.prepared.pool
    gram, _ = shared_gram(study.prepared, study.directory, NoProgress())
    scaled = scaled_gram_of(gram, pool.examples.trained_tokens.tolist(), config)
    count, found = config.budget_rows(len(pool.examples), pool.trained_tokens), dict[str, dict[int, float]]()
    for name, pick in OBJECTIVES.items():
        picks = pick(scaled, count)
        unit = name.replace(", ", "-").replace(" ", "")
        found[name] = {seed: sources.macro(losses_of(study, Unit(unit, None, seed), picks)) for seed in seeds}
        print(name, found[name], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    for name in ("--pool", "--heldout", "--output"):
        parser.add_argument(name, required=True)
    arguments = parser.parse_args()
    given = {"pool": [arguments.pool], "heldout": [arguments.heldout]}
    study = read_study(load_study(arguments.study, given), Path(arguments.output), NoProgress())
    sources, cells = Sources(sources_by_id(study.heldout), {}), dict[str, dict[int, float]]()
    for one in study.results():
        cells.setdefault(one.cell, {})[one.seed] = sources.macro(one.losses)
    base = cells[study.config.baseline]
    beside = {name: cells[name] for name in ("default", "default-one-pool") if name in cells}
    table = {study.config.baseline: base, **beside, **measured(study, sorted(base), sources)}
    lines = [
        f"{machine(torch.device('cpu'))} {study.config.budget} of {len(study.prepared.pool.examples):,} rows. Held-out",
        "macro loss over seeds ± half a 95 % interval; where rows are chosen among all, seeds change only the fine-tuning.",
        "",
        "| picks | seeds | held-out macro loss | minus random |",
        "| --- | --: | --: | --: |",
    ]
    for name, losses in table.items():
        minus = "" if losses is base else paired(losses, base)
        lines.append(f"| {name} | {len(losses)} | {interval(losses.values())} | {minus} |")
    write_section("Objectives that weigh directions by energy", "pool_objectives.py", lines)


if __name__ == "__main__":
    main()
