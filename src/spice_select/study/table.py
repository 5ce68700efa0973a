"""The table of a study: one line a cell, over its seeds, beside the baseline."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spice_select.evaluation.bootstrap import by_source, macro_mean
from spice_select.study.cells import CellResult
from spice_select.study.statistics import Interval, interval, paired


@dataclass(frozen=True, slots=True)
class Shares:
    """What losses are averaged over: the source of each held-out row, and each source's share of the pool's rows."""

    source_of: Mapping[str, str]
    pool: Mapping[str, float]

    def macro(self, losses: Mapping[str, float]) -> float:
        """Mean of the sources' means: every source counts the same."""
        return macro_mean(by_source(losses, self.source_of))

    def in_proportion(self, losses: Mapping[str, float]) -> float | None:
        """Mean of the sources' means, weighted by their share of the pool; None where the pool has no such source."""
        groups = by_source(losses, self.source_of)
        weights = {source: self.pool.get(source, 0.0) for source in groups}
        total = sum(weights.values())
        if not total:
            return None
        return sum(statistics.fmean(values) * weights[source] for source, values in groups.items()) / total


@dataclass(frozen=True, slots=True)
class Line:
    """One cell over its seeds. Differences are to the baseline at the same seeds; negative is better.

    `proportional` is None where pool and held-out rows share no source.
    """

    cell: str
    seeds: int
    rows: float
    tokens: float
    macro: Interval
    difference: Interval | None
    proportional: Interval | None
    proportional_difference: Interval | None


def lines(results: Sequence[CellResult], shares: Shares, baseline: str) -> list[Line]:
    """Lines in the order in which the cells first appear."""
    macro: dict[str, dict[int, float]] = {}
    weighted: dict[str, dict[int, float]] = {}
    for result in results:
        macro.setdefault(result.cell, {})[result.seed] = shares.macro(result.losses)
        proportional = shares.in_proportion(result.losses)
        if proportional is not None:
            weighted.setdefault(result.cell, {})[result.seed] = proportional
    out: list[Line] = []
    for cell in macro:
        own = [result for result in results if result.cell == cell]
        other = cell != baseline
        shared = weighted.get(cell, {})
        out.append(
            Line(
                cell,
                len(own),
                sum(len(result.ids) for result in own) / len(own),
                sum(result.trained_tokens for result in own) / len(own),
                interval(list(macro[cell].values())),
                paired(macro[cell], macro.get(baseline, {})) if other else None,
                interval(list(shared.values())) if shared else None,
                paired(shared, weighted.get(baseline, {})) if other else None,
            )
        )
    return out


def markdown(table: Sequence[Line], baseline: str, untrained: float, remarks: Sequence[str]) -> str:
    """The table for people, `remarks` below it; intervals are 95 % over seeds, a star marks those that exclude zero."""
    head = (
        f"| cell | seeds | rows | trained tokens | held-out macro loss | minus {baseline} "
        f"| in the pool's proportions | minus {baseline} |\n| --- | --: | --: | --: | --: | --: | --: | --: |\n"
    )
    body = "".join(
        f"| {line.cell} | {line.seeds} | {line.rows:.0f} | {line.tokens:,.0f} "
        f"| {line.macro} | {_starred(line.difference)} "
        f"| {line.proportional or ''} | {_starred(line.proportional_difference)} |\n"
        for line in table
    )
    return (
        f"{head}{body}\nMean over seeds ± half a 95 % interval (Student's t); differences are paired by seed, lower is "
        f"better,\n* excludes zero. The untrained model's macro loss is {untrained:.4f}.\n"
    ) + "".join(f"{remark}\n" for remark in remarks)


def pool_shares(sources: Sequence[str]) -> dict[str, float]:
    """Share of each source among the pool's rows."""
    return {source: count / len(sources) for source, count in Counter(sources).items()}


def _starred(difference: Interval | None) -> str:
    if difference is None:
        return ""
    return f"{difference}{' *' if difference.excludes_zero else ''}"
