"""Rows whose loss or gradient is not finite: a run stops at the first, or goes on without them and says which."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from spice_select.choices import BadRow, PoolRecord
from spice_select.config import RunConfig
from spice_select.errors import ModelError
from spice_select.gradients.finite import problem
from spice_select.pool.examples import Example
from spice_select.pool.types import Line
from spice_select.progress import Progress

NAMED = 3
"""Most rows that a message names."""

REMEDY = "Try --dtype float32 or another --model, leave such rows out, or go on without them: --on-bad-gradient skip."


def bad_row(row: Example | Line, reason: str) -> BadRow:
    """`row` with what is wrong with it."""
    location = row.row.location if isinstance(row, Example) else row.location
    return BadRow(row.index, row.id, location, reason)


def bad_rows(rows: Sequence[Example] | Sequence[Line], squares: Tensor) -> list[BadRow]:
    """Those of `rows` whose squared norm [n] is a mark (`gradients/finite.py`)."""
    places = cast(list[int], (~torch.isfinite(squares)).nonzero()[:, 0].tolist())
    return [bad_row(rows[place], problem(float(squares[place]))) for place in places]


def settle(bad: Sequence[BadRow], config: RunConfig, progress: Progress, doing: str = "cannot be chosen") -> None:
    """Stop at bad rows, or where `config` says to skip them, tell of them.

    Raises:
        ModelError: names the first ones.

    """
    if not bad:
        return
    if config.on_bad_gradient == "stop":
        more = f" So it is with {len(bad) - 1:,} more of the rows at hand." if len(bad) > 1 else ""
        raise ModelError(f"{_named(bad[0])}.{more}\n{REMEDY}")
    some = "; ".join(map(_named, bad[:NAMED]))
    rest = f"; and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
    progress.note(f"{len(bad):,} {'row' if len(bad) == 1 else 'rows'} {doing}: {some}{rest}")


def settle_step(
    rows: Sequence[Example], bad: Mapping[int, str], label: str, config: RunConfig, progress: Progress
) -> None:
    """As `settle`, for a step of the proxy's training on `rows`; no bad row means that the step itself overflowed.

    Raises:
        ModelError: names the rows; the step alone where each of them is finite.

    """
    found = [bad_row(rows[place], reason) for place, reason in bad.items()]
    settle(found, config, progress, f"are left out of a step of the {label}")
    if found:
        return
    if config.on_bad_gradient == "stop":
        raise ModelError(
            f"{label}: the gradient of a step is not finite, though that of each of its rows is.\n{REMEDY}"
        )
    progress.note(f"{label}: a step was left out, its gradient was not finite")


def refuse_empty_choice(records: Sequence[PoolRecord]) -> None:
    """Raise `ModelError` where nothing was picked because no row that was looked at can be used."""
    bad = [row for record in records for row in record.bad]
    if bad and not any(record.picks for record in records):
        raise ModelError(
            f"no row can be chosen: of the {len(bad):,} looked at each has a loss or gradient that is not finite, "
            f"as {bad[0].location}.\nTry --dtype float32, or another --model."
        )


def _named(bad: BadRow) -> str:
    return f"{bad.location} (id '{bad.id}'): {bad.reason}"
