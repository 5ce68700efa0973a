"""The one exception that travels inside the pool room: why a single row cannot become an example.

It never reaches a user. `examples.read_pool` turns it into a `Rejection`, or into the text of a `PoolError`.
"""


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
