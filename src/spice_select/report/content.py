"""What a report and a comparison say: quantities and texts, computed before any page or figure exists.

Every number is finite. A part that cannot be known is None or empty, and `notes` says why. Information U and gain are
in nats; "cosine" is that of two gradients in all their directions, in [-1, 1]; `tokens` are trained ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from spice_select.choices import AllDirections
from spice_select.information import Theorem4
from spice_select.pool.types import Line


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity at each pick, over candidate pools: the mean, and the band that holds the middle 80 % of them."""

    picks: Sequence[int]  # numbers of the picks, from 1; of very many picks, a sample of them
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


RANDOM_ROWS, BALANCED_ROWS = "random rows", "random rows, sources in turn"
"""Rivals of as many rows, or trained tokens, as were kept; in the second, each source gives a row in turn."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence of the verdict."""

    text: str
    advice: str = ""  # what to do about it


@dataclass(frozen=True, slots=True)
class Rival:
    """U of another subset of the same size, summed over the same pools."""

    name: str
    information: float
    low: float  # range over random draws; both ends equal `information` where there is a single subset
    high: float


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation of two quantities over `count` rows."""

    name: str
    value: float
    count: int
    paper: float | None  # the value that the paper reports, if any


@dataclass(frozen=True, slots=True)
class Theory:
    """The paper's quantities on the gradients of the run."""

    gain: Curve  # D_x(S) of each pick
    base: Curve  # D_x(empty) of the same picks; gain - base is epsilon
    conflict: Curve
    half_life: float | None  # picks until the gain is at most half the first one, median over pools; None if never
    pools: int  # candidate pools that the curves average
    information: float  # U of the picks, summed over pools
    compared: float  # U of the picks in the pools that the rivals cover
    rivals: Sequence[Rival]
    certificate: float  # U / bound, a lower bound on the share of the best possible U
    curvature: float  # total curvature c, the largest of any pool, in [0, 1]
    guarantee: float | None  # share of the best U that is proven for such picks, the lowest of any pool; None if none
    all_directions: AllDirections | None  # summed over pools; None where the choice was made in all directions
    correlations: Sequence[Correlation]  # of conflict with gain and with |epsilon|
    theorem4: Theorem4 | None  # None where its condition was met at no pick


@dataclass(frozen=True, slots=True)
class PoolPart:
    """Rows of the pool that share a source, a language or a range of lengths, and how many of them were kept."""

    name: str
    rows: int
    kept: int
    tokens: int
    kept_tokens: int


@dataclass(frozen=True, slots=True)
class Composition:
    """What the kept rows are made of."""

    sources: Sequence[PoolPart]  # by name
    lengths: Sequence[PoolPart]  # tenths of the pool, shortest first; fewer where many rows are equally long
    languages: Sequence[PoolPart]  # of the trained text, most frequent first; too little text is one part, the last
    language_rows: int  # rows whose language was detected
    length_correlation: float | None  # Pearson's, of log gradient norm with log tokens; None for fewer than 3 rows
    median: float = 0.0  # trained tokens of a row of the pool
    kept_median: float = 0.0  # and of a kept one; 0 for no row


@dataclass(frozen=True, slots=True)
class Diversity:
    """One diversity measure of the kept rows, and its mean over random subsets of the same size."""

    name: str
    space: str  # "gradients" or another kind of features, or the name of the embeddings' file
    kept: float
    random: float
    balanced: float | None = None  # the mean over random subsets in which sources take turns; None where not measured
    rising: bool = True  # whether the more diverse rows have the higher value


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A pick beside another row."""

    row: int
    id: str
    cosine: float


@dataclass(frozen=True, slots=True)
class Served:
    """A target row that a pick serves."""

    id: str
    share: float  # of the target row's gradient energy that the pick explains beside the picks before it


@dataclass(frozen=True, slots=True)
class RowStory:
    """Why a row was kept or not; the five quantities are None without gradients."""

    line: Line
    prompt: str  # the text before the last trained turn; a shortened text ends in an ellipsis
    response: str  # the trained text
    pool: int | None  # its candidate pool; None where it was excluded or could not be chosen
    rank: int | None  # 0 for the first pick of its pool; None where it was not picked
    gain: float | None  # D_x(S) when it was picked, or at the end
    base: float | None  # D_x(empty)
    conflict: float | None  # with the mean of the picks, in the directions that rows were chosen by
    score: float | None  # gain - penalty * conflict
    norm: float | None  # of the unscaled gradient
    overlaps: Sequence[Neighbour]  # other picks with the highest positive cosines, highest first
    opposes: Sequence[Neighbour]  # other picks with the lowest negative cosines, lowest first
    serves: Sequence[Served] = ()  # with a target, the target rows that it serves most


@dataclass(frozen=True, slots=True)
class Finding:
    """A row that the audit lists."""

    line: Line
    value: float  # the quantity that it is listed for
    reason: str
    others: Sequence[Neighbour]  # picks that it opposes


@dataclass(frozen=True, slots=True)
class Findings:
    """The worst of `total` rows, worst first."""

    total: int
    listed: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Near-duplicates: each row has a cosine of at least `cosine` and almost the text of another row of the group."""

    size: int
    lines: Sequence[Line]  # all rows, or the first of very many
    cosine: float
    picks: Sequence[int] = ()  # the numbers of those of `lines` that were picked


@dataclass(frozen=True, slots=True)
class Audit:
    """Rows to check before training on them."""

    scope: str  # which rows were compared with which, in words
    conflicts: Findings | None  # most opposed to the picks; None where no gradients are available
    duplicates: Sequence[DuplicateGroup] | None  # the largest groups; None where gradients or texts are missing
    groups: int  # all groups of near-duplicates
    outliers: Findings  # rows that could not be chosen, zero gradients, norms far from those of similar rows
    suspects: Findings | None  # likely wrong answers; None where no answer was evaluated
    doubtful: Findings | None = None  # picks whose loss stays high; None where no loss is known


@dataclass(frozen=True, slots=True)
class TargetRow:
    """A row of the target with its coverages, means over candidate pools."""

    id: str
    location: str
    prompt: str
    response: str
    picks: float
    whole: float
    random: float


@dataclass(frozen=True, slots=True)
class TargetStory:
    """How well the picks cover the target."""

    rule: str  # by which rows were picked, a sentence
    directed: bool  # whether the choice itself counts the target's directions
    rows: int  # of the target
    picks: float  # mean coverage by the picks, as the next two
    whole: float
    random: float
    certificate: float  # variance that the picks explain over what the whole pool does
    gains: bool  # whether choosing by this target is worth it on this pool
    curve: Curve  # mean coverage after so many picks
    worst: Sequence[TargetRow]  # served worst first
    unlike: Sequence[TargetRow]  # those that the whole pool covers less than half as much as the average target row


@dataclass(frozen=True, slots=True)
class SelectionReport:
    """Everything that the page of a run says."""

    title: str  # the name of the run's directory
    noun: str  # what its rows are compared by, in the singular: gradient, state ...
    facts: Sequence[tuple[str, str, str]]  # label, value and explanation of the headline figures
    notes: Sequence[str]  # what is missing from the report and why, each a sentence
    theory: Theory | None  # None where no gradient was computed
    composition: Composition
    diversity: Sequence[Diversity]
    rows: Sequence[RowStory]  # that can be looked up in the page, in the pool's order
    all_rows: int  # usable rows of the pool
    audit: Audit | None  # None where no gradient was computed
    target: TargetStory | None = None  # None where rows were not chosen for a target
    about: Sequence[tuple[str, str]] = ()  # what was run on what: label and value
    scale: str = "geometric"  # factor on the rows' gradients or states


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One of several runs on the same pool, measured on gradients that are the same for all of them."""

    name: str  # of its directory
    method: str
    settings: str  # options in which it differs from the other runs, as `key value`
    rows: int  # that it chose
    tokens: int  # of these rows
    median_tokens: float
    information: float | None  # U of its rows; None without gradients, as the next three
    random_information: float | None  # mean U of random subsets of the same size in the same candidate pools
    conflict: float | None  # mean over its rows, each against those chosen before it
    gain: Curve | None  # D_x(S) by pick, in the run's own order
    diversity: Sequence[Diversity]
    shared: Sequence[int]  # rows in common with each run, itself included


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs on one pool."""

    pool_rows: int  # usable rows of the pool
    noun: str  # what measures all runs, in the singular: gradient, state ...
    measured_by: str | None  # the run whose gradients, scale and alpha measure all runs; None without gradients
    runs: Sequence[ComparedRun]  # in the order given
    sources: Sequence[tuple[str, Sequence[float]]]  # name, then its share of the rows of the pool and of each run
    notes: Sequence[str]  # what could not be measured, each a sentence
