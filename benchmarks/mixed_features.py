"""Further features to choose for a target by: centred states, states to screen for gradients, and both together.

    python benchmarks/mixed_features.py benchmarks/study/target_attempts_1k.yaml --pool POOL --heldout HELDOUT \
        --target sgd=sgd.jsonl ... --output DIR

DIR is the directory of that study, with its stores: seed 0's choices by posterior variance are made on other features,
fine-tuned on and measured as the study does, and set beside its cells. Writes its section of benchmarks/RESULTS.md.
"""

import argparse
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from report import machine, write_section
from spice_select import select_from_features
from spice_select.information import Target, gradient_scales
from spice_select.option_values import factor_of
from spice_select.output.trainers import TRAIN_FILE
from spice_select.output.write_run import write_training_table  # pyright: ignore[reportUnknownVariableType]
from spice_select.progress import NoProgress
from spice_select.store.reading import GradientStore
from spice_select.study.choices import CellChoice, Unit
from spice_select.study.config import load_study
from spice_select.study.run import Study, read_study
from spice_select.study.target_table import TargetSources

BESIDE = ("random", "variance", "variance-states", "rds")
SCREENED = 1 / 3

Features = tuple[Tensor, Tensor]
"""Of the pool's rows [n, d] and the target's [t, d]."""


def scaled(store: GradientStore) -> Tensor:
    """Rows [n, d] as `--scale auto` scales them."""
    lengths = torch.tensor([line.trained_tokens for line in store.listing.lines])
    scales = gradient_scales(factor_of("auto", store.features), lengths, store.squared_norms())
    return scales[:, None] * store.block(0, store.rows)


def features_of(directory: Path, kind: str, target: str, count: int) -> Features:
    """Features of one kind with the study's default options, of the pool and of the rows that seed 0 draws."""
    for folder in sorted((directory / "stores").iterdir()):
        store, drawn = GradientStore.open(folder / "pool"), sorted(folder.glob(f"{target}-0-{count}*/manifest.json"))
        default = store.config["warmup_steps"] == 4 and store.config["layers"] == "all"
        if store.features == kind and (default or kind == "states") and drawn:
            return scaled(store), torch.cat([scaled(GradientStore.open(place.parent)) for place in drawn])
    raise SystemExit(f"{directory} has no store of {kind} with rows of {target}: let the study make it first.")


def variance(features: Features, count: int) -> list[int]:
    """The picks of the default rule for a target."""
    rows, target = features
    return select_from_features(
        rows, count, 1.0 / float(rows.square().sum(dim=1).mean()), target=Target(target)
    ).indices


def centred(_: Features, states: Features, count: int) -> list[int]:
    """States from which the pool's mean is taken."""
    mean = states[0].mean(dim=0)
    return variance((normalize(states[0] - mean), normalize(states[1] - mean)), count)


def both(gradients: Features, states: Features, count: int) -> list[int]:
    """The sum of the two kernels, each with a mean of 1 on its diagonal."""
    parts: list[Features] = []
    for rows, target in (gradients, states):
        size = math.sqrt(float(rows.square().sum(dim=1).mean()))
        parts.append((rows / size, target / size))
    return variance((torch.cat([part[0] for part in parts], 1), torch.cat([part[1] for part in parts], 1)), count)


def screened(gradients: Features, states: Features, count: int) -> list[int]:
    """Gradients of the third of the rows whose states have the highest cosine with one of the target's."""
    nearest = (normalize(states[0]) @ normalize(states[1]).T).amax(dim=1)
    kept = nearest.argsort(descending=True, stable=True)[: round(SCREENED * len(nearest))].sort().values
    rows, target = gradients
    return [int(kept[place]) for place in variance((rows[kept], target), count)]


MIXES: dict[str, Callable[[Features, Features, int], list[int]]] = {
    "centred states": centred,
    "sum of both kernels": both,
    "states screen, gradients choose": screened,
}


def losses_of(study: Study, unit: Unit, picks: Sequence[int]) -> dict[str, float]:
    """Held-out losses after fine-tuning on these rows of the pool."""
    chosen = [study.prepared.pool.examples[row] for row in sorted(picks)]
    choice = CellChoice({}, [row.id for row in chosen], sum(row.trained_tokens for row in chosen))
    selection = study.directory / "mixed" / unit.name
    selection.mkdir(parents=True, exist_ok=True)
    write_training_table(selection / TRAIN_FILE, chosen)
    study.tuning.make(unit, choice, selection, wait=True)
    losses = study.tuning.found(choice, unit.seed)
    assert losses is not None, "they were just measured"
    return losses


def measured(study: Study, target: str) -> Generator[tuple[str, str]]:
    """Each choice for a target at seed 0, and its loss on the target and on the other sources."""
    held = {line.id: line.source for line in study.heldout.listing().lines}
    sources = TargetSources(held, study.targets[target].sources)

    def two(losses: Mapping[str, float]) -> str:
        return f"{sources.on_target(losses):.3f} / {sources.on_others(losses):.3f}"

    for one in study.results():
        if one.cell in BESIDE and one.seed == 0 and one.target in (None, target):
            yield one.cell, two(one.losses)
    gradients, states = (
        features_of(study.directory, kind, target, study.config.target_rows) for kind in ("gradients", "states")
    )
    for name, pick in MIXES.items():
        rows = study.config.run_config(study.config.baseline, seed=0).budget_rows(len(study.prepared.pool.examples), 0)
        picks = pick(gradients, states, rows)
        yield name, two(losses_of(study, Unit(name.replace(" ", "-"), target, 0), picks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    for name in ("--pool", "--heldout", "--output"):
        parser.add_argument(name, required=True)
    parser.add_argument("--target", action="append", required=True, metavar="NAME=FILE")
    arguments = parser.parse_args()
    files: dict[str, list[str]] = {}
    for text in arguments.target:
        name, _, file = text.partition("=")
        files.setdefault(name, []).append(file)
    given = {"pool": [arguments.pool], "heldout": [arguments.heldout], "targets": files}
    study = read_study(load_study(arguments.study, given), Path(arguments.output), NoProgress())
    found: dict[str, dict[str, str]] = {name: {} for name in (*BESIDE, *MIXES)}
    for target in study.targets:
        for name, losses in measured(study, target):
            found[name][target] = losses
            print(target, name, losses, flush=True)
    lines = [
        f"{machine(torch.device('cpu'))} {study.config.budget} picks. Loss on the target / on the other sources after",
        "fine-tuning, in nats a token; one seed.",
        "",
        f"| picks | {' | '.join(study.targets)} |",
        f"| --- | {' | '.join('--:' for _ in study.targets)} |",
    ]
    for name, losses in found.items():
        lines.append(f"| {name} | {' | '.join(losses.get(target, '') for target in study.targets)} |")
    write_section("Other features for a target", "mixed_features.py", lines)


if __name__ == "__main__":
    main()
