"""Amounts as users write them: budgets ('10%', '30k', '2Mtok'), quotas ('20%', '10%..30%') and shares ('80%')."""

import math
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal, NamedTuple, cast


def parse_budget(text: str) -> tuple[Literal["rows", "fraction", "tokens"], float]:
    """The unit of a budget, and its amount. Raises `ValueError`, which shows the forms, if `text` is no budget."""
    hint = "use a percentage ('10%'), a fraction ('0.1'), rows ('500', '30k') or trained tokens ('20000tok', '2Mtok')"
    try:
        if text.endswith("tok"):
            value, kind = _count(text[:-3]), "tokens"
        elif text.endswith("%"):
            value, kind = float(text[:-1]) / 100, "fraction"
        elif text[-1:] not in _FACTORS and ("." in text or "e" in text.lower()):
            value, kind = float(text), "fraction"
        else:
            value, kind = _count(text), "rows"
    except (ValueError, OverflowError, InvalidOperation):
        raise ValueError(f"{text[:80]!r} is not a budget; {hint}") from None
    if not value > 0 or (kind == "fraction" and value > 1):
        raise ValueError(f"{text[:80]!r} is out of range; {hint}")
    return kind, value


_FACTORS = {"k": 1_000, "M": 1_000_000, "G": 1_000_000_000}


def _count(text: str) -> float:
    factor = _FACTORS.get(text[-1:], 1)
    value = Decimal(int(text)) if factor == 1 else Decimal(text[:-1]) * factor
    found = float(value)
    if value != int(value) or math.isinf(found):
        raise ValueError
    return found


GIB = 1 << 30


class Share(NamedTuple):
    """One end of a quota: a number of rows, or a share of the picks.

    A share that falls between two numbers of rows allows both.
    """

    value: float
    of_picks: bool

    def least(self, picks: int) -> int:
        """Rows that the lower end requires among `picks`."""
        return math.floor(self._rows(picks) + 1e-9)

    def most(self, picks: int) -> int:
        """Rows that the upper end allows among `picks`."""
        return math.ceil(self._rows(picks) - 1e-9)

    def _rows(self, picks: int) -> float:
        return self.value * picks if self.of_picks else self.value


KEEP, OTHERS = "keep", "*"
"""The quota of a source that is its share of the pool; the name of all sources that have no quota of their own."""


def read_quotas(value: object) -> object:
    """A user's quotas by source; 'proportional' is the pool's share for each."""
    return {OTHERS: KEEP} if value == "proportional" else value


def parse_quota(text: str, of_pool: float = 0.0) -> tuple[Share | None, Share | None]:
    """Lower and upper end of a quota such as '20%', '10%..30%', '20%..', '..200'; None where it is open.

    'keep' is the source's share `of_pool`. Raises `ValueError` if `text` is no quota; the message shows the forms.
    """
    if text == KEEP:
        return Share(of_pool, of_picks=True), Share(of_pool, of_picks=True)
    low, dots, high = text.partition("..")
    try:
        ends = [_share(end.strip()) if end.strip() else None for end in ((low, high) if dots else (text, text))]
    except (ValueError, OverflowError):
        ends = [None, None]
    if ends == [None, None]:
        raise ValueError(
            f"{text[:80]!r} is not a quota; write 20%, 10%..30%, 20%.. (at least), ..20% (at most), keep or rows"
        )
    return ends[0], ends[1]


def _share(text: str) -> Share:
    percent = text.endswith("%")
    share = Share(float(text[:-1]) / 100 if percent else float(int(text)), of_picks=percent)
    if not 0 <= share.value <= (1 if share.of_picks else 1 << 40):
        raise ValueError
    return share


def parse_share(text: str) -> float:
    """A share such as '80%' or '0.8', in (0, 1]. Raises `ValueError`, which shows the forms, if `text` is none."""
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError(f"{text[:80]!r} is not a share; write 80% or 0.8, above 0 and at most 100%")
    return share


def read_share(value: object) -> str:
    """A user's share as text. Raises as `parse_share`."""
    parse_share(str(value))
    return str(value)


def below_whole(share: str) -> str:
    """A share of which something else is left. Raises `ValueError` for the whole."""
    if parse_share(share) >= 1:
        raise ValueError(f"{share[:80]!r} leaves nothing; use less than 100%")
    return share


def parse_target(text: str) -> tuple[str, float | None]:
    """The place of a target and its share: 'math.jsonl=70%', or 'math.jsonl' with None."""
    place, _, share = text.rpartition("=")
    if place and share.endswith("%"):
        return place, parse_share(share)
    return text, None


def read_targets(value: object) -> list[str]:
    """The targets of a user: one place or several, all with shares that make 100 %, or none. Raises `ValueError`."""
    several = [value] if isinstance(value, str | Path) else value
    if not isinstance(several, list | tuple):
        raise ValueError("must be a file or a list of files")
    items = cast("list[object]", several)
    if not all(isinstance(item, str | Path) and str(item).strip() for item in items):
        raise ValueError("each must name a file; write rows in memory to a .jsonl first")
    places = [str(item) for item in items]
    if len({parse_target(place)[0] for place in places}) < len(places):
        raise ValueError("name each target once")
    shares = [parse_target(place)[1] for place in places]
    known = [share for share in shares if share is not None]
    if known and (len(known) < len(shares) or abs(sum(known) - 1) > 1e-6):
        raise ValueError("give every target a share, 100% in total, or none")
    return places
