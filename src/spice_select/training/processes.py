"""One fine-tuning on one process or several: how they share a batch."""

from dataclasses import dataclass

from spice_select.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Share:
    """How `batch_size` rows become one optimizer step: `rows_at_once` rows a process, `accumulation` times."""

    rows_at_once: int
    accumulation: int


def share_batch(batch_size: int, rows_at_once: int, processes: int) -> Share:
    """Cut a batch into equal parts of at most `rows_at_once` rows.

    Raises:
        ConfigError: `rows_at_once` is below 1, or the processes cannot share the batch equally.

    """
    if rows_at_once < 1:
        raise ConfigError(f"rows_at_once must be at least 1, not {rows_at_once}.")
    own, rest = divmod(batch_size, processes)
    if rest or not own:
        raise ConfigError(
            f"batch_size {batch_size} cannot be shared equally by {processes} processes; "
            f"make it a multiple of {processes}."
        )
    rows = next(rows for rows in range(min(rows_at_once, own), 0, -1) if own % rows == 0)
    return Share(rows, own // rows)
