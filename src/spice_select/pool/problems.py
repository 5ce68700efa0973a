"""Why a single row cannot become an example: an exception that stays inside the pool room, and the limit on nesting.

It never reaches a user. `read_pool` turns it into a `Rejection`, or into the text of a `PoolError`.
"""

from collections.abc import Iterable, Mapping
from typing import cast

MAX_DEPTH = 100
"""Most levels of lists and objects inside each other in a row; tool schemas have about ten."""

TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"


class RowProblem(Exception):  # noqa: N818 - it is an event in the data, not an error of the program
    """A short reason, naming the field, why one row cannot be trained on."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RenderProblem(RowProblem):
    """The row is well formed, but the chat template or the tokenizer refuses it."""


def one_line(text: str, limit: int = 200) -> str:
    """`text` with every run of white space made one space, cut to `limit` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def too_deep(value: object, levels: int = MAX_DEPTH) -> bool:
    """Whether more than `levels` levels of lists and mappings lie inside `value`, as in one that holds itself."""
    if isinstance(value, Mapping):
        inner: Iterable[object] = cast("Mapping[object, object]", value).values()
    elif isinstance(value, list | tuple):
        inner = cast("list[object]", value)
    else:
        return False
    return levels < 0 or any(too_deep(item, levels - 1) for item in inner)


def may_be_too_deep(text: str) -> bool:
    """Whether JSON text opens enough brackets to be `too_deep`: a quick test without false negatives."""
    return text.count("[") + text.count("{") > MAX_DEPTH
