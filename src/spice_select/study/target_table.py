"""The tables of a study's targets: one for each, a line for each cell over its seeds; and one over all targets.

The loss on a target is the mean over the held-out sources among those of its rows, that on the others over the rest;
every source counts the same. Over all targets, a target is one value: the mean over its seeds.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spice_select.evaluation.bootstrap import by_source, macro_mean
from spice_select.study.table import CellResult, SeedMean, by_seed, interval, paired, piped, starred

Losses = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TargetSources:
    """The source of each held-out row by id, and the sources of a target's rows."""

    of: Mapping[str, str]
    target: frozenset[str]

    def on_target(self, losses: Losses) -> float | None:
        """Macro mean over the target's sources; None where none is held out."""
        return self._macro(losses, among=True)

    def on_others(self, losses: Losses) -> float | None:
        """Macro mean over the other sources; None where there is none."""
        return self._macro(losses, among=False)

    def _macro(self, losses: Losses, *, among: bool) -> float | None:
        part = {name: loss for name, loss in losses.items() if (self.of[name] in self.target) == among}
        return macro_mean(by_source(part, self.of)) if part else None


@dataclass(frozen=True, slots=True)
class TargetLine:
    """One cell on one target, over its seeds; `picks` of the target's sources, `seconds` of features and choice.

    Differences are to the baseline at the same seeds; negative is better.
    """

    cell: str
    seeds: int
    rows: float
    tokens: float
    picks: float
    loss: SeedMean
    difference: SeedMean | None
    others: SeedMean | None
    others_difference: SeedMean | None
    seconds: float


@dataclass(frozen=True, slots=True)
class OverallLine:
    """One cell over all targets: differences of the loss on the target, to the baseline and to further cells.

    `won` of the `settings` (a target at a seed) have a lower loss than the baseline.
    """

    cell: str
    targets: int
    difference: SeedMean | None
    won: int
    settings: int
    against: dict[str, SeedMean | None]


def of_target(results: Sequence[CellResult], target: str) -> list[CellResult]:
    """The results that a target's table shows: of cells made for it, and of those made without a target."""
    return [one for one in results if one.target in (None, target)]


def target_lines(
    results: Sequence[CellResult], target: str, sources: TargetSources, baseline: str
) -> list[TargetLine]:  # fmt: skip
    """The lines of a target's table, in the order in which the cells first appear."""
    shown, table = of_target(results, target), list[TargetLine]()
    for cell in dict.fromkeys(one.cell for one in shown):
        own = [one for one in shown if one.cell == cell]
        other = baseline if cell != baseline else ""
        loss, others = (by_seed(shown, cell, mean) for mean in (sources.on_target, sources.on_others))
        if not loss:
            continue
        table.append(
            TargetLine(
                cell,
                len(own),
                statistics.fmean(one.rows for one in own),
                statistics.fmean(one.trained_tokens for one in own),
                statistics.fmean(sum(one.sources.get(name, 0) for name in sources.target) for one in own),
                interval(loss.values()),
                paired(loss, by_seed(shown, other, sources.on_target)),
                interval(others.values()) if others else None,
                paired(others, by_seed(shown, other, sources.on_others)),
                statistics.fmean(one.seconds for one in own),
            )
        )
    return table


def overall_lines(
    results: Sequence[CellResult], targets: Mapping[str, TargetSources], baseline: str, against: Sequence[str]
) -> list[OverallLine]:
    """The lines of the table over all targets."""

    def differences(cell: str, other: str) -> list[list[float]]:
        """Of each target the differences at the seeds that both have; targets without any are left out."""
        found: list[list[float]] = []
        for target, sources in targets.items():
            shown = of_target(results, target)
            ours, theirs = (by_seed(shown, name, sources.on_target) for name in (cell, other))
            found.append([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
        return [values for values in found if values]

    def mean(cell: str, other: str) -> SeedMean | None:
        values = [statistics.fmean(own) for own in differences(cell, other)] if cell != other else []
        return interval(values) if values else None

    table: list[OverallLine] = []
    for cell in dict.fromkeys(one.cell for one in results):
        own = differences(cell, baseline) if cell != baseline else []
        every = [value for values in own for value in values]
        won = sum(value < 0 for value in every)
        compared = {other: mean(cell, other) for other in against}
        table.append(OverallLine(cell, len(own), mean(cell, baseline), won, len(every), compared))
    return table


def target_markdown(name: str, table: Sequence[TargetLine], baseline: str, untrained: float | None) -> str:
    """A target's table for people; intervals as in `table`, of which the words below are said once."""
    minus = f"minus {baseline}"
    titles = ["cell", "seeds", "rows", "trained tokens", "picks of the target's sources", "loss on the target", minus]
    rows = [[*titles, "loss on the others", minus, "seconds to choose"], ["---", *["--:"] * 9]]
    for line in table:
        rows.append([line.cell, f"{line.seeds}", f"{line.rows:.0f}", f"{line.tokens:,.0f}", f"{line.picks:.1f}"])
        rows[-1] += [f"{line.loss}", starred(line.difference)]
        rows[-1] += [f"{line.others or ''}", starred(line.others_difference), f"{line.seconds:,.1f}"]
    before = "" if untrained is None else f"The untrained model's loss on the target is {untrained:.4f}.\n"
    return "".join(f"{line}\n" for line in [f"Target {name}:\n", *piped(rows)]) + f"\n{before}"


def overall_markdown(table: Sequence[OverallLine], baseline: str, against: Sequence[str]) -> str:
    """The table over all targets, and what its columns and those of the targets' tables are."""
    titles = [
        "cell",
        "targets",
        f"loss on the target minus {baseline}",
        "settings won",
        *(f"minus {c}" for c in against),
    ]
    rows = [titles, ["---", *["--:"] * (len(titles) - 1)]]
    for line in table:
        won = f"{line.won} of {line.settings}" if line.settings else ""
        compared = [starred(line.against[cell]) for cell in against]
        rows.append([line.cell, f"{line.targets}" if line.settings else "", starred(line.difference), won, *compared])
    words = [
        "\nOver all targets: mean over targets, of each the mean over its seeds, ± half a 95 % interval over targets",
        f"(Student's t); a setting is a target at a seed, won where the loss on the target is below {baseline}'s.",
        "Losses on a target are means over the held-out sources of its rows, on the others over the rest; sources",
        "count alike. Seconds to choose hold features and choice; shared features are counted in full in each.",
    ]
    return "".join(f"{line}\n" for line in ["All targets:\n", *piped(rows), *words])
