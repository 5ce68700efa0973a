"""Reports to show: one with everything and hostile text wherever text can be, and one with all that may be empty."""

import math
import random
from dataclasses import replace

from spice_select.choices import AllDirections
from spice_select.information import Theorem4
from spice_select.pool.types import Line
from spice_select.report.content import (
    BALANCED_ROWS,
    RANDOM_ROWS,
    Audit,
    Composition,
    Correlation,
    Curve,
    Diversity,
    DuplicateGroup,
    Finding,
    Findings,
    Neighbour,
    PoolPart,
    Rival,
    RowStory,
    SelectionReport,
    Served,
    TargetRow,
    TargetStory,
    Theory,
)
from spice_select.report.target_story import RULES

HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    '<img src="x" onerror="window.hacked = 3">',
    "\"><svg onload='window.hacked = 4'>",
    "<!--<script>",
    "]]>&amp;&lt;b&gt; &#x41; javascript:window.hacked=5",
    "{{ 7 * 7 }} {% raise %} {# gone #}",
    "user\u202egnp.exe\u202c \u2066isolated\u2069 \u05d0\u05d1\u05d2 \u0645\u0631\u062d\u0628\u0627",
    "line\u2028paragraph\u2029end",
    "bell\x07 escape\x1b[31m null\x00 delete\x7f next\x85",
    "half of a pair \ud83d, other half \udc00",
    "w" * 700,
    "price $x_1$ and $\\frac{",
    "日本語 🙂 Привет",
)

QUESTIONS = (
    "A shop sells pens at 3 euros and books at 8 euros. Anna buys 4 pens and 2 books. How much does she pay?",
    "Write a Python function that returns the second largest number of a list.",
    "Which planet has the shortest year?",
    "Rewrite the sentence in the passive voice: The committee will review the plan.",
    "Explain why the sky is blue to a child of eight.",
)
ANSWERS = (
    "Four pens cost 4 * 3 = 12 euros and two books cost 2 * 8 = 16 euros.\n\nTogether that is 28 euros.",
    "def second_largest(values):\n    distinct = sorted(set(values))\n    return distinct[-2]",
    "Mercury: it goes round the sun in 88 days.",
    "The plan will be reviewed by the committee.",
    "Sunlight is made of many colours. Air scatters blue light more than red light, so blue comes from everywhere.",
)


def full_report(count: int = 60, all_rows: int = 360, *, hostile: bool = True, sources: int = 5) -> SelectionReport:
    """Everything a report can hold; `hostile` puts markup, control characters and long words into every text."""
    words = Words(hostile)
    rows = [_row(index, count, words, sources) for index in range(count)]
    return SelectionReport(
        title=words("chosen"),
        noun="gradient",
        facts=[
            ("rows kept", f"{len(_picked(rows)):,} of {all_rows:,}", "The budget was 10%."),
            ("trained tokens kept", "885 of 11,516", "7.7%: the picks are shorter than the pool."),
            ("longest response", "99 tokens", words("in the pool: 214 tokens")),
            ("median response", "18.5 tokens", "in the pool: 21 tokens"),
        ],
        notes=[words("The near-duplicates were looked for within candidate pools only."), "Two rows were too long."],
        theory=_theory(words),
        composition=_composition(words, sources),
        diversity=[
            Diversity(words("effective rank"), "gradients", 21.4, 12.9, 13.5),
            Diversity("mean cosine", words("embeddings.npy"), 0.11, 0.23, rising=False),
        ],
        rows=rows,
        all_rows=all_rows,
        audit=_audit(rows, words),
        target=_target(words),
        about=[("model", words("smollm2-135m-instruct")), ("seed", "0"), ("pool", words("pool.jsonl (360 rows)"))],
    )


def _target(words: "Words") -> TargetStory:
    """A target of which some rows are served badly, on a pool where choosing by it gains nothing."""
    rows = [
        TargetRow(words(f"task-{i}"), words("task.jsonl, row 1"), words(QUESTIONS[i % 5]), words(ANSWERS[i % 5]),
                  0.05 * i, 0.1 * i, 0.02 * i)
        for i in range(1, 7)
    ]  # fmt: skip
    picks, means = list(range(1, 37)), [0.4 * (1 - math.exp(-i / 9)) for i in range(1, 37)]
    curve = Curve(picks, means, [0.9 * mean for mean in means], [1.1 * mean for mean in means])
    return TargetStory(RULES["variance"], True, 30, 0.39, 0.62, 0.21, 0.7, False, curve, rows, rows[:2])


def empty_report() -> SelectionReport:
    """A run without gradients and texts: all parts are absent that can be."""
    bare = bare_report()
    composition = replace(bare.composition, languages=[])
    return replace(bare, theory=None, audit=None, diversity=[], composition=composition)


def bare_report() -> SelectionReport:
    """All parts are there, and whatever can be None, empty or zero within them is."""
    nothing = Curve([], [], [], [])
    theory = Theory(nothing, nothing, nothing, None, 1, 0.0, 0.0, [], 1.0, 0.0, None, None, [], None)
    row = RowStory(Line(0, "only", "s", "f:1", 0, 0), "", "", None, None, None, None, None, None, None, [], [])
    shares = [PoolPart("s", 0, 0, 0, 0)]
    return SelectionReport(
        title="bare",
        noun="gradient",
        facts=[("rows kept", "0", "")],
        notes=[],
        theory=theory,
        composition=Composition(shares, shares, shares, 0, None),
        diversity=[Diversity("d", "gradients", 0.0, 0.0)],
        rows=[row],
        all_rows=1,
        audit=Audit("", None, None, 0, Findings(0, []), Findings(0, []), Findings(0, [])),
    )


class Words:
    """Texts as they are, or each with the next hostile one behind it."""

    def __init__(self, hostile: bool) -> None:
        self.hostile = hostile
        self.used = 0

    def __call__(self, text: str) -> str:
        if not self.hostile:
            return text
        self.used += 1
        return f"{text} {HOSTILE[self.used % len(HOSTILE)]}"


def _row(index: int, count: int, words: Words, sources: int) -> RowStory:
    chance = random.Random(index)
    picked = index % 6 == 0
    base = 0.2 + chance.random()
    gain = base * (0.2 + 0.7 * chance.random())
    conflict = max(0.0, chance.random() - 0.6)
    others = [other for other in range(0, count, 6) if other != index][:3]
    return RowStory(
        line=Line(
            index=index,
            id=words(f"row-{index}"),
            source=_source(index % sources, words),
            location=f"pool.jsonl, row {index + 1}",
            tokens=300,
            trained_tokens=10 + chance.randrange(200),
        ),
        prompt=words(QUESTIONS[index % len(QUESTIONS)]),
        response=words(ANSWERS[index % len(ANSWERS)]),
        pool=index // 30,
        rank=index // 6 % 5 if picked else None,
        gain=gain,
        base=base,
        conflict=conflict,
        score=gain - 0.1 * conflict,
        norm=0.5 + chance.random(),
        overlaps=[Neighbour(other, f"row-{other}", 0.9 - 0.2 * place) for place, other in enumerate(others)],
        opposes=[Neighbour(count + 7, words("elsewhere"), -0.21)] if index % 4 == 0 else [],
        serves=[Served(words("task-3"), 0.041)] if picked else [],
    )


def _far(index: int, name: str) -> Line:
    """A row that is not in the page."""
    return Line(index, name, "facts", f"pool.jsonl, row {index + 1}", 300, 30)


def _source(number: int, words: Words) -> str:
    names = ("word-problems", "code", "facts", "rewriting", "chats")
    name = names[number] if number < len(names) else f"source-{number:03}"
    return f"{name} {HOSTILE[number % len(HOSTILE)]}" if words.hostile else name


def _picked(rows: list[RowStory]) -> list[RowStory]:
    return [row for row in rows if row.rank is not None]


def _curve(steps: int, first: float, last: float, width: float) -> Curve:
    shares = [step / max(1, steps - 1) for step in range(steps)]
    mean = [first * math.exp(share * math.log(last / first)) for share in shares]
    return Curve(range(1, steps + 1), mean, [(1 - width) * v for v in mean], [(1 + width) * v for v in mean])


def _theory(words: Words) -> Theory:
    return Theory(
        gain=_curve(12, 1.31, 0.42, 0.2),
        base=_curve(12, 1.31, 1.02, 0.1),
        conflict=_curve(12, 0.001, 0.04, 0.5),
        half_life=6.0,
        pools=3,
        information=31.65,
        compared=31.65,
        rivals=[
            Rival(RANDOM_ROWS, 15.97, 14.2, 17.6),
            Rival(BALANCED_ROWS, 17.25, 15.1, 18.4),
            Rival("largest norms", 21.4, 21.4, 21.4),
            Rival(words("longest answers"), 9.21, 9.21, 9.21),
        ],
        certificate=0.771,
        curvature=0.93,
        guarantee=0.651,
        all_directions=AllDirections(60.12, 48.7, 63.9),
        correlations=[
            Correlation("conflict and gain", -0.412, 324, -0.66),
            Correlation(words("conflict and |epsilon|"), 0.38, 324, None),
        ],
        theorem4=Theorem4(36, 11, 11),
    )


def _composition(words: Words, sources: int) -> Composition:
    counts = ((75, 8, 4068, 385), (51, 3, 2313, 80), (123, 19, 2385, 360), (89, 6, 1063, 60), (22, 0, 1687, 0))
    shares = [PoolPart(_source(n, words), *counts[n % 5]) for n in range(sources)]
    ranges = ("2 to 6", "7 to 9", "10 to 12", "13 to 16", "17 to 21", "22 to 28", "29 to 38", "39 to 61", "62 to 99")
    lengths = [
        PoolPart(name, 36, 9 - place, 36 * 5 * place, 9 * place) for place, name in enumerate([*ranges, "over 99"])
    ]
    languages = [PoolPart("English", 300, 30, 9000, 700), PoolPart("German", 20, 4, 800, 90)]
    languages.append(PoolPart("too short to tell", 40, 2, 100, 5))
    return Composition(shares, lengths, languages, 360, -0.62, 21.0, 18.5)


def _audit(rows: list[RowStory], words: Words) -> Audit:
    def finding(row: RowStory, value: float, reason: str, others: list[Neighbour]) -> Finding:
        return Finding(row.line, value, words(reason), others)

    return Audit(
        scope=words("Rows were compared within their candidate pool of 120."),
        conflicts=Findings(
            2345, [finding(row, 0.4, "opposes the mean of the picks", list(row.overlaps)) for row in rows[1:5]]
        ),
        duplicates=[
            DuplicateGroup(3, [row.line for row in rows[5:8]], 0.998),
            DuplicateGroup(60, [_far(99_000, words("far")), _far(99_001, "away")], 0.981),
        ],
        groups=7,
        outliers=Findings(1, [finding(rows[8], 0.0, "the gradient is zero", [])]),
        suspects=Findings(1, [finding(rows[9], 0.7, "another answer", [Neighbour(3, rows[3].line.id, 0.97)])]),
        doubtful=Findings(2345, [finding(rows[12], 5.2, "its loss stays high", [])]),
    )
