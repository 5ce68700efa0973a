"""The table of what cells cost: the choice, the fine-tuning, and both together in fine-tunings on random rows."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spice_select.study.cost import KEYS, PEAKS, Cost
from spice_select.study.table import CellResult, piped


@dataclass(frozen=True, slots=True)
class CostLine:
    """One cell: means over its seeds and targets, of memory the highest; None for what was not measured.

    `break_even` are the rows of the baseline that are fine-tuned on in the seconds of choice and fine-tuning together:
    the choice has paid for itself if its model is better than one from so many rows of the baseline.
    """

    cell: str
    choice: Cost
    tuning: float | None
    break_even: float | None


def cost_lines(results: Sequence[CellResult], baseline: str) -> list[CostLine]:
    """Lines in the order in which the cells first appear."""
    row = _mean([one.tuning and one.tuning / one.rows for one in results if one.cell == baseline])
    table: list[CostLine] = []
    for cell in dict.fromkeys(one.cell for one in results):
        own = [one for one in results if one.cell == cell]
        choice, tuning = mean_cost(one.cost for one in own), _mean([one.tuning for one in own])
        both = None if choice.seconds is None or tuning is None else choice.seconds + tuning
        table.append(CostLine(cell, choice, tuning, both / row if both is not None and row else None))
    return table


def cost_markdown(table: Sequence[CostLine], baseline: str) -> str:
    """The table for people; what was not measured is empty."""
    gpu = any(line.choice.gpu_memory for line in table)
    titles = ["cell", "seconds to choose", "forward tokens", "backward tokens", "peak memory (GiB)"]
    titles += [*["on the GPU (GiB)"] * gpu, "seconds to fine-tune", f"break-even (rows of {baseline})"]
    rows = [titles, ["---", *["--:"] * (len(titles) - 1)]]
    for line in table:
        choice = line.choice
        memory = (choice.memory, *[choice.gpu_memory] * gpu)
        rows.append([line.cell, amount(choice.seconds, 1), amount(choice.forward), amount(choice.backward)])
        rows[-1] += [*(amount(one, 2) for one in memory), amount(line.tuning, 1), amount(line.break_even)]
    words = [
        "\nMeans over seeds, of memory the highest; what was not measured is empty. Break-even: fine-tuning on so many",
        f"rows of {baseline} takes as long as choice and fine-tuning of the cell. What cells share is counted in full",
        "in each. Tokens pass through the model while choosing, padding included. Seconds and break-even hold only if",
        "the machine did nothing else.",
    ]
    return "".join(f"{part}\n" for part in ["Cost:\n", *piped(rows), *words])


def amount(value: float | None, places: int = 0) -> str:
    """A number for people; empty where there is none."""
    return "" if value is None else f"{value:,.{places}f}"


def mean_cost(costs: Iterable[Cost]) -> Cost:
    """Means over the costs where each was measured, of memory the highest."""
    every = list(costs)
    return Cost(*(_mean([getattr(cost, key) for cost in every], highest=key in PEAKS) for key in KEYS))


def _mean(values: Sequence[float | None], *, highest: bool = False) -> float | None:
    known = [value for value in values if value is not None]
    return None if not known else max(known) if highest else statistics.fmean(known)
