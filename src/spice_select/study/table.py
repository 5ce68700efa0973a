"""The table of the cells without a target, a line for each over its seeds, and the remarks below it."""

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from spice_select.evaluation.bootstrap import by_source, macro_mean
from spice_select.pool.examples import Pool
from spice_select.study.cells import UNTRAINED
from spice_select.study.cost import UNMEASURED, Cost
from spice_select.study.intervals import Difference, Mean, holm, interval, paired


@dataclass(frozen=True, slots=True)
class CellResult:
    """One cell at one seed; `losses` are the mean NLL of each held-out response by row id, in nats a token.

    `target` is that for which the cell is made, if it depends on one; `sources` are the chosen rows by source; `cost`
    that of features and choice; `tuning` the seconds of the fine-tuning, if they are known.
    """

    cell: str
    seed: int
    rows: int
    trained_tokens: int
    losses: Mapping[str, float]
    target: str | None = None
    sources: Mapping[str, int] = field(default_factory=dict[str, int])
    cost: Cost = UNMEASURED
    tuning: float | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """What losses are averaged over: the source of each held-out row by id, and the pool's rows by source."""

    of: Mapping[str, str]
    pool: Mapping[str, int]

    def macro(self, losses: Mapping[str, float]) -> float:
        """Mean of the sources' means: every source counts the same."""
        return macro_mean(by_source(losses, self.of))

    def proportional(self, losses: Mapping[str, float]) -> float | None:
        """Mean of the sources' means, weighted by their rows in the pool; None where the pool has no such source."""
        means = {source: statistics.fmean(values) for source, values in by_source(losses, self.of).items()}
        weights = [self.pool.get(source, 0) for source in means]
        return statistics.fmean(means.values(), weights) if any(weights) else None

    def remarks(self) -> list[str]:
        """What limits the loss in the pool's proportions."""
        heldout = set(self.of.values())
        weightless, missing = heldout - self.pool.keys(), self.pool.keys() - heldout
        share = sum(self.pool[source] for source in missing) / sum(self.pool.values())
        remarks = {
            "Held-out sources that the pool lacks have no weight in its proportions": weightless,
            f"Sources with {share:.0%} of the pool's rows are not held out": missing,
        }
        return [f"{text}: {', '.join(sorted(of))[:300]}." for text, of in remarks.items() if of]


@dataclass(frozen=True, slots=True)
class CellLine:
    """One cell over its seeds, or the untrained model. Differences are paired by seed; negative is better.

    `at_equal_tokens` is that to the random cell which follows this one.
    """

    cell: str
    seeds: int
    rows: float
    tokens: float
    macro: Mean
    difference: Difference | None
    at_equal_tokens: Difference | None
    proportional: Mean | None
    proportional_difference: Difference | None


def by_seed(
    results: Sequence[CellResult], cell: str, mean: Callable[[Mapping[str, float]], float | None]
) -> dict[int, float]:  # fmt: skip
    """The mean of a cell's losses at each seed where there is one."""
    means = ((one.seed, mean(one.losses)) for one in results if one.cell == cell)
    return {seed: value for seed, value in means if value is not None}


def minus_baseline(
    means: Mapping[str, Mapping[int, float]], baseline: str, untested: Collection[str]
) -> dict[str, Difference | None]:
    """Cell -> difference to the baseline, of the means by seed of each cell."""
    theirs = means.get(baseline, {})
    return holm({cell: paired(own, theirs) for cell, own in means.items() if cell != baseline}, untested)


def lines(
    results: Sequence[CellResult],
    sources: Sources,
    baseline: str,
    untrained: Mapping[str, float],
    followers: Mapping[str, str],
) -> list[CellLine]:
    """Lines in the order in which the cells first appear, the untrained model first; none where there is no cell.

    `followers` are the random cells at equal tokens, by the cell that they follow. They are controls and not tested.
    """
    cells = list(dict.fromkeys(result.cell for result in results))
    macro, proportional = (
        {cell: by_seed(results, cell, mean) for cell in cells} for mean in (sources.macro, sources.proportional)
    )
    minus, shared = (minus_baseline(means, baseline, followers.values()) for means in (macro, proportional))
    fair = holm(
        {cell: paired(macro[cell], macro[other]) for cell, other in followers.items() if {cell, other} <= {*cells}}
    )
    share = sources.proportional(untrained)
    before = (Mean(sources.macro(untrained), None), None, None, None if share is None else Mean(share, None), None)
    table = [CellLine(UNTRAINED, 0, 0, 0, *before)] if cells else []
    for cell in cells:
        rows, tokens = zip(*((one.rows, one.trained_tokens) for one in results if one.cell == cell), strict=True)
        own = proportional[cell]
        columns = (
            interval(macro[cell].values()), minus.get(cell), fair.get(cell),
            interval(own.values()) if own else None, shared.get(cell),
        )  # fmt: skip
        table.append(CellLine(cell, len(rows), statistics.fmean(rows), statistics.fmean(tokens), *columns))
    return table


def markdown(table: Sequence[CellLine], baseline: str, remarks: Sequence[str]) -> str:
    """The table for people, `remarks` below it."""
    minus, fair = f"minus {baseline}", any(line.at_equal_tokens for line in table)
    titles = ["cell", "seeds", "rows", "trained tokens", "held-out macro loss", minus]
    titles += [*["minus random at equal tokens"] * fair, "in the pool's proportions", minus]
    rows = [titles, ["---", *["--:"] * (len(titles) - 1)]]
    for line in table:
        rows.append([line.cell, f"{line.seeds or ''}", f"{line.rows:.0f}", f"{line.tokens:,.0f}", f"{line.macro}"])
        rows[-1] += [f"{one or ''}" for one in (line.difference, *[line.at_equal_tokens] * fair)]
        rows[-1] += [f"{one or ''}" for one in (line.proportional, line.proportional_difference)]
    text = piped(rows) if table else []
    text += [
        "\nMean over seeds ± half a 95 % interval (Student's t, not adjusted); differences are paired by seed,",
        "lower is better. p: two-sided paired t-test, adjusted by Holm's method for all tested cells of the column,",
        "which are all but random at equal tokens; * p below 0.05.",
    ]
    return "".join(f"{part}\n" for part in [*text, *remarks])


def overlap_remarks(pool: Pool, heldout: Pool) -> list[str]:
    """How many held-out rows have the prompt (all tokens before the first trained one) of a row of the pool, if any."""

    def prompts(rows: Pool) -> list[bytes]:
        return [row.input_ids[: int(row.trained.argmax())].tobytes() for row in rows.examples]

    known = set(prompts(pool))
    shared = sum(prompt in known for prompt in prompts(heldout))
    remark = f"{shared:,} of {len(heldout.examples):,} held-out rows have a prompt that is also in the pool"
    return [f"{remark}; a cell that chooses the pool's row has a lower loss for this reason alone."] if shared else []


def piped(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in rows]
