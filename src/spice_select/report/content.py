"""What a report says: figures and texts, computed before a page or a picture exists.

Every number is finite. A part that cannot be known is None or absent, and `notes` says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity at each pick, over candidate pools: mean, and the band that holds the middle 80 % of them.

    `steps` are the numbers of picks made before, from 0; where there are very many, some of them.
    """

    steps: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True, slots=True)
class Rival:
    """Information of another subset of the same size, in the same pools: nats, summed over pools.

    `low` and `high` are its range over draws; equal to `information` where there is one subset only.
    """

    name: str
    information: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation of two quantities over `count` rows, and what the paper reports, if anything."""

    name: str
    value: float
    count: int
    paper: float | None


@dataclass(frozen=True, slots=True)
class BoundCheck:
    """Theorem 4 over `steps` picks: how many met its condition, and at how many of those the bound held.

    Where more than 200 of a pool meet it, `held` is that of 200 spread over them, scaled up.
    """

    steps: int
    condition: int
    held: int


@dataclass(frozen=True, slots=True)
class Theory:
    """The paper's quantities on this run's own gradients.

    Attributes:
        gain: D_x(S) of each pick, in nats.
        base: D_x(empty) of the same picks; what lies between the two is epsilon.
        conflict: of each pick.
        half_life: picks until the gain is at most half the first pick's, median over pools; None where it never is.
        pools: how many candidate pools the curves average.
        information: U of the picks, summed over pools, in nats.
        compared: U of the picks in those pools whose gradients are there, which the rivals' is compared with.
        rivals: other subsets of the same size, in these pools.
        certificate: U / bound, a lower bound on the share of the best possible U.
        curvature: total curvature c, the largest of any pool, in [0, 1].
        guarantee: (1 - e^-c) / c, of penalty 0.
        correlations: of conflict with gain and with |epsilon|.
        theorem4: None where no step could be checked.

    """

    gain: Curve
    base: Curve
    conflict: Curve
    half_life: float | None
    pools: int
    information: float
    compared: float
    rivals: Sequence[Rival]
    certificate: float
    curvature: float
    guarantee: float
    correlations: Sequence[Correlation]
    theorem4: BoundCheck | None


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the pool and what was kept of it: a source, a language, a range of lengths; tokens are trained ones."""

    name: str
    rows: int
    kept: int
    tokens: int
    kept_tokens: int


@dataclass(frozen=True, slots=True)
class Composition:
    """Who was kept.

    Attributes:
        sources: by name.
        lengths: tenths of the pool by trained tokens, shortest first; fewer where many rows are equally long.
        languages: of the trained text, most frequent first, of `language_rows` rows that were looked at; rows with too
            little text to tell are one line, "too short to tell".
        language_rows: how many rows were looked at.
        length_correlation: Pearson's, of log gradient norm with log trained tokens over all rows with both; None
            where fewer than three have.

    """

    sources: Sequence[Share]
    lengths: Sequence[Share]
    languages: Sequence[Share]
    language_rows: int
    length_correlation: float | None


@dataclass(frozen=True, slots=True)
class Diversity:
    """One measure of how different the kept rows are, beside random rows of the same number (mean of draws)."""

    name: str
    definition: str
    space: str  # "gradients", or the name of the embeddings' file
    kept: float
    random: float


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A pick beside another row: cosine of their unscaled gradients, in [-1, 1]."""

    row: int
    id: str
    cosine: float


@dataclass(frozen=True, slots=True)
class RowStory:
    """Why a row was kept or not.

    Attributes:
        index: place among the usable rows.
        id: unique in the pool.
        source: of the row.
        location: file and number, for people.
        prompt: what comes before the last trained turn, as text; may be shortened, ending in an ellipsis.
        response: the trained text; likewise.
        tokens: trained ones.
        pool: its candidate pool; None where it was excluded or could not be chosen.
        rank: 0 for the first pick of its pool; None where it was not picked.
        gain: D_x(S) at its pick, or at the end; None without gradients, as all that follows.
        base: D_x(empty).
        conflict: max(0, -cosine) with the mean of the picks.
        score: gain - penalty * conflict.
        norm: of the gradient, unscaled.
        overlaps: the picks nearest by cosine, itself left out; most similar first.
        opposes: picks of the most negative cosine, if any is negative.

    """

    index: int
    id: str
    source: str
    location: str
    prompt: str
    response: str
    tokens: int
    pool: int | None
    rank: int | None
    gain: float | None
    base: float | None
    conflict: float | None
    score: float | None
    norm: float | None
    overlaps: Sequence[Neighbour]
    opposes: Sequence[Neighbour]


@dataclass(frozen=True, slots=True)
class Finding:
    """A row that an audit points at: how much, and in words why; `others` are rows that it is about, if any."""

    row: int
    id: str
    source: str
    location: str
    value: float
    reason: str
    others: Sequence[Neighbour]


@dataclass(frozen=True, slots=True)
class Findings:
    """The worst of `total` rows."""

    total: int
    listed: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are nearly the same: each has a cosine of at least `cosine` with another of them.

    `size` is how many they are, also where fewer are listed.
    """

    size: int
    rows: Sequence[int]
    ids: Sequence[str]
    sources: Sequence[str]
    cosine: float


@dataclass(frozen=True, slots=True)
class Audit:
    """Rows to look at before training on them, worst first.

    Attributes:
        scope: which rows could be compared with which, in words.
        conflicts: most opposed to the picks.
        duplicates: groups of near-duplicates, largest first; None where no gradients are there to compare.
        groups: how many there are, also where fewer are listed.
        outliers: rows that could not be chosen, zero gradients, and norms far from those of rows as long, of the same
            source.
        suspects: likely wrong answers.

    """

    scope: str
    conflicts: Findings
    duplicates: Sequence[Group] | None
    groups: int
    outliers: Findings
    suspects: Findings


@dataclass(frozen=True, slots=True)
class Report:
    """All of it.

    Attributes:
        title: the run's directory, by name.
        facts: label, value and explanation of the headline figures, in order.
        notes: what is not in the report and why; each a sentence.
        theory: None where no gradient was computed.
        composition: what was chosen.
        diversity: of the chosen rows.
        rows: that can be looked up in the page, in the pool's order.
        all_rows: how many there are in the pool.
        audit: None where no gradient was computed.

    """

    title: str
    facts: Sequence[tuple[str, str, str]]
    notes: Sequence[str]
    theory: Theory | None
    composition: Composition
    diversity: Sequence[Diversity]
    rows: Sequence[RowStory]
    all_rows: int
    audit: Audit | None
