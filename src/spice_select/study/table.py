"""The table of the cells without a target, and the remarks below it: a line for each over its seeds, and the baseline.

Intervals are Student's t intervals over seeds; those of `evaluation` resample held-out rows of a single model.
"""

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from spice_select.evaluation.bootstrap import by_source, macro_mean
from spice_select.pool.examples import Pool

T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t at 0.975 for 1 to 30 degrees of freedom (any table); beyond, the last serves, slightly wide."""


@dataclass(frozen=True, slots=True)
class SeedMean:
    """A mean and the half width of its 95 % interval; None for a single value, whose interval is unbounded."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.half is None else f"{self.mean:.4f} ± {self.half:.4f}"


@dataclass(frozen=True, slots=True)
class CellResult:
    """One cell at one seed; `losses` are the mean NLL of each held-out response by row id, in nats a token.

    `target` is that for which the cell is made, if it depends on one; `sources` are the chosen rows by source;
    `seconds` those of features and choice.
    """

    cell: str
    seed: int
    rows: int
    trained_tokens: int
    losses: Mapping[str, float]
    target: str | None = None
    sources: Mapping[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0


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
    """One cell over its seeds. Differences are to the baseline at the same seeds; negative is better."""

    cell: str
    seeds: int
    rows: float
    tokens: float
    macro: SeedMean
    difference: SeedMean | None
    proportional: SeedMean | None
    proportional_difference: SeedMean | None


def interval(values: Collection[float]) -> SeedMean:
    """Mean of at least one value, with Student's t interval."""
    n = len(values)
    error = statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return SeedMean(statistics.fmean(values), None if error is None else T_975[min(n - 1, len(T_975)) - 1] * error)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> SeedMean | None:
    """Interval of the differences at the seeds that both have; None where there is none."""
    common = sorted(values.keys() & baseline.keys())
    return interval([values[seed] - baseline[seed] for seed in common]) if common else None


def by_seed(
    results: Sequence[CellResult], cell: str, mean: Callable[[Mapping[str, float]], float | None]
) -> dict[int, float]:  # fmt: skip
    """The mean of a cell's losses at each seed where there is one."""
    means = ((one.seed, mean(one.losses)) for one in results if one.cell == cell)
    return {seed: value for seed, value in means if value is not None}


def lines(results: Sequence[CellResult], sources: Sources, baseline: str) -> list[CellLine]:
    """Lines in the order in which the cells first appear."""
    table: list[CellLine] = []
    for cell in dict.fromkeys(result.cell for result in results):
        rows, tokens = zip(*((one.rows, one.trained_tokens) for one in results if one.cell == cell), strict=True)
        other = baseline if cell != baseline else ""
        macro, proportional = by_seed(results, cell, sources.macro), by_seed(results, cell, sources.proportional)
        columns = (
            interval(macro.values()),
            paired(macro, by_seed(results, other, sources.macro)),
            interval(proportional.values()) if proportional else None,
            paired(proportional, by_seed(results, other, sources.proportional)),
        )
        table.append(CellLine(cell, len(rows), statistics.fmean(rows), statistics.fmean(tokens), *columns))
    return table


def markdown(table: Sequence[CellLine], baseline: str, untrained: float, remarks: Sequence[str]) -> str:
    """The table for people, `remarks` below it; intervals are 95 % over seeds, a star marks those that exclude zero."""
    minus, shared = f"minus {baseline}", "in the pool's proportions"
    titles = ["cell", "seeds", "rows", "trained tokens", "held-out macro loss", minus, shared, minus]
    rows = [titles, ["---", *["--:"] * 7]]
    for line in table:
        rows.append([line.cell, f"{line.seeds}", f"{line.rows:.0f}", f"{line.tokens:,.0f}", f"{line.macro}"])
        rows[-1] += [starred(line.difference), f"{line.proportional or ''}", starred(line.proportional_difference)]
    text = piped(rows) if table else []
    text += [
        "\nMean over seeds ± half a 95 % interval (Student's t); differences are paired by seed, lower is better,",
        f"* excludes zero. The untrained model's macro loss is {untrained:.4f}.",
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


def starred(difference: SeedMean | None) -> str:
    """A difference with a star where its interval excludes zero; empty where there is none."""
    if difference is None or difference.half is None or abs(difference.mean) <= difference.half:
        return f"{difference or ''}"
    return f"{difference} *"
