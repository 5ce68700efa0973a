"""What a comparison of several runs says, computed before a page or a picture exists."""

from collections.abc import Sequence
from dataclasses import dataclass

from spice_select.report.content import Curve, Diversity


@dataclass(frozen=True, slots=True)
class Contender:
    """One run among several on the same pool.

    Attributes:
        name: of its directory.
        method: that chose.
        settings: options in which it differs from the others, as `key value`, in words.
        rows: chosen.
        tokens: of them trained.
        median_tokens: of a chosen row.
        information: U of its rows in nats, on the gradients that all are measured by; None where there are none.
        random_information: U of random rows of the same number in the same candidate pools, mean of draws.
        conflict: mean over its rows, each beside those chosen before it.
        gain: D_x(S) by pick, in the order in which it chose.
        diversity: of its rows, on the same gradients.
        shared: rows in common with each contender, in their order; itself included.

    """

    name: str
    method: str
    settings: str
    rows: int
    tokens: int
    median_tokens: float
    information: float | None
    random_information: float | None
    conflict: float | None
    gain: Curve | None
    diversity: Sequence[Diversity]
    shared: Sequence[int]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs on one pool.

    Attributes:
        pool_rows: usable rows of the pool.
        measured_by: the run whose gradients, scale and alpha all are measured by; None where no run has any.
        contenders: in the order given.
        sources: share of each source among the rows of the pool and of each contender: name, then fractions.
        notes: what could not be done, each a sentence.

    """

    pool_rows: int
    measured_by: str | None
    contenders: Sequence[Contender]
    sources: Sequence[tuple[str, Sequence[float]]]
    notes: Sequence[str]
