"""Why a row was kept or not: its score, the picks it overlaps with, those it opposes, its text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from spice_select.choices import PoolRecord
from spice_select.information.diversity import unit_rows
from spice_select.pool.messages import Conversation, Message
from spice_select.pool.types import Line
from spice_select.report.content import Neighbour, RowStory
from spice_select.report.evidence import PoolEvidence
from spice_select.row_tables import StoredChat

NEIGHBOURS = 3
"""Picks that are named as nearest, and as most opposed."""

_BLOCK = 256

Near = tuple[list[Neighbour], list[Neighbour]]
"""Picks that a row overlaps with, and picks that it opposes."""


@dataclass(frozen=True, slots=True)
class Turns:
    """A row's text: what comes before its last trained turn, and what is trained."""

    prompt: str
    response: str

    @classmethod
    def of(cls, chat: Conversation) -> "Turns":
        """The texts of a conversation."""
        trained = chat.trained_turns()
        last = trained[-1] if trained else len(chat.messages)
        before = [f"{message['role']}: {_content(message)}" for message in chat.messages[:last]]
        return cls("\n\n".join(before), "\n\n".join(_content(chat.messages[turn]) for turn in trained))

    def shortened(self, most: int) -> "Turns":
        """At most so many characters of each."""
        return Turns(_short(self.prompt, most), _short(self.response, most))


def turns_of(rows: Sequence[int], chats: Sequence[StoredChat]) -> dict[int, Turns]:
    """Texts of rows by number."""
    return {row: Turns.of(chat.conversation) for row, chat in zip(rows, chats, strict=True)}


def stories_of(
    rows: Sequence[int],
    lines: Sequence[Line],
    records: Sequence[PoolRecord],
    near: Mapping[int, Near],
    texts: Mapping[int, Turns],
    most: int,
) -> list[RowStory]:
    """The story of each of `rows`; texts of at most `most` characters each, empty where they are not known."""
    wanted = set(rows)
    told = {row: _blank(lines[row]) for row in rows}
    for record in records:
        rank = {place: step for step, place in enumerate(record.picks)}
        for place, row in enumerate(record.rows):
            if row in wanted:
                told[row] = replace(_measured(told[row], record, place), pool=record.pool, rank=rank.get(place))
    nothing = Turns("", "")
    for row, story in told.items():
        overlaps, opposes = near.get(row, ([], []))
        text = texts.get(row, nothing).shortened(most)
        told[row] = replace(story, overlaps=overlaps, opposes=opposes, prompt=text.prompt, response=text.response)
    return [told[row] for row in rows]


def neighbours_of(rows: Iterable[int], pools: Iterable[PoolEvidence], lines: Sequence[Line]) -> dict[int, Near]:
    """For each of `rows`, by number, the picks of its candidate pool that are nearest and most opposed by cosine."""
    wanted, found = set(rows), dict[int, Near]()
    for pool in pools:
        record = pool.record
        places = [place for place, row in enumerate(record.rows) if row in wanted]
        if places:
            found |= _near(pool, places, lines)
    return found


def _near(pool: PoolEvidence, places: Sequence[int], lines: Sequence[Line]) -> dict[int, Near]:
    record = pool.record
    picks, of_picks = unit_rows(pool.plain.take(torch.tensor(record.picks)))
    picked = [record.rows[record.picks[pick]] for pick in cast("list[int]", of_picks.tolist())]
    found: dict[int, Near] = {}
    for start in range(0, len(places), _BLOCK):
        some = places[start : start + _BLOCK]
        members, of_members = unit_rows(pool.plain.take(torch.tensor(some)))
        cosines = (members @ picks.T).clamp(-1.0, 1.0)
        count = min(NEIGHBOURS + 1, len(picked))  # one more: a pick is its own nearest
        nearest, furthest = cosines.topk(count, dim=1), cosines.topk(count, dim=1, largest=False)
        for i, member in enumerate(cast("list[int]", of_members.tolist())):
            row = record.rows[some[member]]
            overlaps = _named(nearest.values[i], nearest.indices[i], picked, row, lines)
            opposes = _named(furthest.values[i], furthest.indices[i], picked, row, lines)
            found[row] = ([other for other in overlaps if other.cosine > 0], [o for o in opposes if o.cosine < 0])
    return found


def _named(cosines: Tensor, places: Tensor, picked: Sequence[int], row: int, lines: Sequence[Line]) -> list[Neighbour]:
    """Up to `NEIGHBOURS` picks, `row` itself left out."""
    pairs = zip(cast("list[int]", places.tolist()), cast("list[float]", cosines.tolist()), strict=True)
    others = [Neighbour(picked[place], lines[picked[place]].id, cosine) for place, cosine in pairs]
    return [other for other in others if other.row != row][:NEIGHBOURS]


def _blank(line: Line) -> RowStory:
    return RowStory(
        line.index, line.id, line.source, line.location, "", "", line.trained_tokens,
        None, None, None, None, None, None, None, [], [],
    )  # fmt: skip


def _measured(story: RowStory, record: PoolRecord, place: int) -> RowStory:
    measures = record.measures
    if measures is None:
        return story
    return replace(
        story,
        gain=measures.gain[place],
        base=measures.base[place],
        conflict=measures.conflict[place],
        score=measures.score[place],
        norm=measures.norm[place],
    )


def _content(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else str(message.get("tool_calls", ""))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
