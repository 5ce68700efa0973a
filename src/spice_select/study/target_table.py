"""The tables of a study's targets: one for each, a line for each cell over its seeds; and one over all targets.

The loss on a target is the mean over the held-out sources among those of its rows, that on the others over the rest;
every source counts the same. Over all targets, a target is one value: the mean over its seeds.
"""

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from spice_select.evaluation.bootstrap import by_source, macro_mean
from spice_select.study.cells import UNTRAINED
from spice_select.study.cost_table import amount, mean_cost
from spice_select.study.intervals import Difference, Mean, difference, holm, interval
from spice_select.study.table import CellResult, by_seed, minus_baseline, piped

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
    """One cell on one target, over its seeds, or the untrained model.

    `picks` are of the target's sources, `seconds` of features and choice, None where they are not known.

    Differences are to the baseline at the same seeds; negative is better.
    """

    cell: str
    seeds: int
    rows: float
    tokens: float
    picks: float
    loss: Mean
    difference: Difference | None
    others: Mean | None
    others_difference: Difference | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class OverallLine:
    """One cell over all targets: differences of the loss on the target, to the baseline and to further cells.

    `won` of the `settings` (a target at a seed) have a lower loss than the baseline.
    """

    cell: str
    targets: int
    difference: Difference | None
    won: int
    settings: int
    against: dict[str, Difference | None]


def of_target(results: Sequence[CellResult], target: str) -> list[CellResult]:
    """The results that a target's table shows: of cells made for it, and of those made without a target."""
    return [one for one in results if one.target in (None, target)]


def target_lines(
    results: Sequence[CellResult],
    target: str,
    sources: TargetSources,
    baseline: str,
    untrained: Losses,
    controls: Collection[str],
) -> list[TargetLine]:
    """The lines of a target's table, in the order in which the cells first appear, the untrained model first.

    `controls` are random cells at equal tokens, which are not tested.
    """
    shown = of_target(results, target)
    cells = dict.fromkeys(one.cell for one in shown)
    loss, others = (
        {cell: by_seed(shown, cell, mean) for cell in cells} for mean in (sources.on_target, sources.on_others)
    )
    minus, others_minus = (minus_baseline(means, baseline, controls) for means in (loss, others))
    before, rest = sources.on_target(untrained), sources.on_others(untrained)
    table = list[TargetLine]()
    if before is not None:
        others_before = None if rest is None else Mean(rest, None)
        table.append(TargetLine(UNTRAINED, 0, 0, 0, 0, Mean(before, None), None, others_before, None, None))
    for cell in cells:
        own = [one for one in shown if one.cell == cell]
        if loss[cell]:
            table.append(
                TargetLine(
                    cell,
                    len(own),
                    statistics.fmean(one.rows for one in own),
                    statistics.fmean(one.trained_tokens for one in own),
                    statistics.fmean(sum(one.sources.get(name, 0) for name in sources.target) for one in own),
                    interval(loss[cell].values()),
                    minus.get(cell),
                    interval(others[cell].values()) if others[cell] else None,
                    others_minus.get(cell),
                    mean_cost(one.cost for one in own).seconds,
                )
            )
    return table


def overall_lines(
    results: Sequence[CellResult], targets: Mapping[str, TargetSources], baseline: str, against: Sequence[str],
    controls: Collection[str],
) -> list[OverallLine]:  # fmt: skip
    """The lines of the table over all targets; `controls` as for `target_lines`."""

    def differences(cell: str, other: str) -> list[list[float]]:
        """Of each target the differences at the seeds that both have; targets without any are left out."""
        found: list[list[float]] = []
        for target, sources in targets.items():
            shown = of_target(results, target)
            ours, theirs = (by_seed(shown, name, sources.on_target) for name in (cell, other))
            found.append([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
        return [values for values in found if values]

    def minus(other: str) -> dict[str, Difference | None]:
        """Of each cell the difference to another, a target being one value."""
        apart = {cell: [statistics.fmean(own) for own in differences(cell, other)] for cell in cells if cell != other}
        return holm({cell: difference(values) for cell, values in apart.items()}, controls)

    table, cells = list[OverallLine](), list(dict.fromkeys(one.cell for one in results))
    columns = {other: minus(other) for other in (baseline, *against)}
    for cell in cells:
        own = differences(cell, baseline) if cell != baseline else []
        every = [value for values in own for value in values]
        won = sum(value < 0 for value in every)
        compared = {other: columns[other].get(cell) for other in against}
        table.append(OverallLine(cell, len(own), columns[baseline].get(cell), won, len(every), compared))
    return table


def target_markdown(name: str, table: Sequence[TargetLine], baseline: str) -> str:
    """A target's table for people; intervals as in `table`, of which the words below are said once."""
    minus = f"minus {baseline}"
    titles = ["cell", "seeds", "rows", "trained tokens", "picks of the target's sources", "loss on the target", minus]
    rows = [[*titles, "loss on the others", minus, "seconds to choose"], ["---", *["--:"] * 9]]
    for line in table:
        rows.append([line.cell, f"{line.seeds or ''}", f"{line.rows:.0f}", f"{line.tokens:,.0f}", f"{line.picks:.1f}"])
        rows[-1] += [f"{one or ''}" for one in (line.loss, line.difference, line.others, line.others_difference)]
        rows[-1].append(amount(line.seconds, 1))
    return "".join(f"{line}\n" for line in [f"Target {name}:\n", *piped(rows)])


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
        compared = [f"{line.against[cell] or ''}" for cell in against]
        targets = f"{line.targets}" if line.settings else ""
        rows.append([line.cell, targets, f"{line.difference or ''}", won, *compared])
    words = [
        "\nOver all targets: mean over targets, of each the mean over its seeds, ± half a 95 % interval over targets",
        f"(Student's t); a setting is a target at a seed, won where the loss on the target is below {baseline}'s;",
        "p as above, of a t-test over targets.",
        "Losses on a target are means over the held-out sources of its rows, on the others over the rest; sources",
        "count alike. Seconds to choose hold features and choice; shared features are counted in full in each.",
    ]
    return "".join(f"{line}\n" for line in ["All targets:\n", *piped(rows), *words])
