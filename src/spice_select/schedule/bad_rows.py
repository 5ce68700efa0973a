"""Rows whose loss or gradient is not finite: a run stops at the first, or continues without them and names them."""

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

_SKIP_THEM = (
    "Try --dtype float32 or another --model, remove such rows, or continue without them: --on-bad-gradient skip."
)


def bad_row(row: Example | Line, reason: str) -> BadRow:
    """`row` with what is wrong with it."""
    location = row.row.location if isinstance(row, Example) else row.location
    return BadRow(row.index, row.id, location, reason)


def bad_rows(rows: Sequence[Example] | Sequence[Line], squared_norms: Tensor, noun: str = "gradient") -> list[BadRow]:
    """Those of `rows` whose squared norm [n] is a mark (`gradients/finite.py`); `noun` is what their features are."""
    places = cast(list[int], (~torch.isfinite(squared_norms)).nonzero()[:, 0].tolist())
    return [bad_row(rows[place], problem(float(squared_norms[place]), noun)) for place in places]


def stop_or_report(
    bad: Sequence[BadRow], config: RunConfig, progress: Progress, doing: str = "cannot be chosen"
) -> None:
    """Raise `ModelError`, which names the first bad row, or report the rows if `config` says to skip them."""
    if not bad:
        return
    if config.on_bad_gradient == "stop":
        more = f" The same holds for {len(bad) - 1:,} other rows of this pool." if len(bad) > 1 else ""
        raise ModelError(f"{_named(bad[0])}.{more}\n{_SKIP_THEM}")
    some = "; ".join(map(_named, bad[:NAMED]))
    rest = f"; and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
    progress.note(f"{len(bad):,} {'row' if len(bad) == 1 else 'rows'} {doing}: {some}{rest}")


def stop_or_report_step(
    rows: Sequence[Example], bad: Mapping[int, str], label: str, config: RunConfig, progress: Progress
) -> None:
    """As `stop_or_report`, for a training step of the proxy; without a bad row, the step itself overflowed."""
    found = [bad_row(rows[place], reason) for place, reason in bad.items()]
    stop_or_report(found, config, progress, f"are left out of a step of the {label}")
    if found:
        return
    if config.on_bad_gradient == "stop":
        raise ModelError(
            f"{label}: the gradient of a step is not finite, though that of each of its rows is.\n{_SKIP_THEM}"
        )
    progress.note(f"{label}: a step was left out, its gradient was not finite")


def refuse_empty_choice(records: Sequence[PoolRecord]) -> None:
    """Raise `ModelError` if nothing was picked because no evaluated row can be used."""
    bad = [row for record in records for row in record.bad]
    if bad and not any(record.picks for record in records):
        raise ModelError(
            f"no row can be chosen: each of the {len(bad):,} evaluated has a loss or gradient that is not finite, "
            f"for example {bad[0].location}.\nTry --dtype float32, or another --model."
        )


def _named(bad: BadRow) -> str:
    return f"{bad.location} (id '{bad.id}'): {bad.reason}"
