"""Rows of similar length put together so that padding is small and a batch's size in tokens is bounded."""

from collections.abc import Sequence

from spice_select.errors import ConfigError


def token_budget_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut rows into batches whose padded size stays within a budget.

    Rows are taken from the longest to the shortest (ties by index), so the batch that needs the most memory
    is the first one and a run that does not fit fails at once.

    Args:
        lengths: tokens of each row.
        token_budget: the most tokens a batch may hold, padding included: rows of the batch * its longest row.

    Returns:
        Indices into `lengths`, each exactly once. A row longer than the budget is a batch of its own.

    Raises:
        ConfigError: the budget is below 1.

    """
    if token_budget < 1:
        raise ConfigError(f"The token budget of a batch must be at least 1, not {token_budget}.")
    batches: list[list[int]] = []
    room = 0  # rows that the open batch may still take
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if room == 0:
            batches.append([])
            room = max(1, token_budget // max(1, lengths[index]))
        batches[-1].append(index)
        room -= 1
    return batches
