"""Why a row was kept or not: its score, the picks that it overlaps with, those it opposes, its text."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from spice_select.information.diversity import unit_rows
from spice_select.pool.messages import Conversation, Message
from spice_select.pool.types import Line
from spice_select.report.content import Neighbour, RowStory, Served
from spice_select.report.finished_run import FinishedRun, PoolGradients

NEIGHBOURS = 3  # picks that are named as nearest, and as most opposed
_BLOCK = 256
_MEASURES = ("gain", "base", "conflict", "score", "norm")

Near = tuple[list[Neighbour], list[Neighbour]]
"""Picks that a row overlaps with, and picks that it opposes."""


class Turns(NamedTuple):
    """The text of a row."""

    prompt: str  # what comes before the last trained turn
    response: str  # what is trained


def turns_of(run: FinishedRun, rows: Sequence[int]) -> dict[int, Turns]:
    """Texts of rows by number; empty where the run kept none."""
    chats = run.texts(rows) if rows else None
    return {row: conversation_turns(chat.conversation) for row, chat in zip(rows, chats or [], strict=bool(chats))}


def conversation_turns(chat: Conversation) -> Turns:
    """The text of a chat."""
    trained = chat.trained_turns()
    last = trained[-1] if trained else len(chat.messages)
    before = [f"{message['role']}: {_content(message)}" for message in chat.messages[:last]]
    return Turns("\n\n".join(before), "\n\n".join(_content(chat.messages[turn]) for turn in trained))


def stories_of(
    run: FinishedRun, rows: Sequence[int], texts: Mapping[int, Turns], most: int, serves: Mapping[int, Sequence[Served]]
) -> list[RowStory]:
    """The story of each of `rows`, with texts of at most `most` characters each, empty where they are unknown.

    `serves` are the target rows that each pick serves.
    """
    wanted, near = set(rows), neighbours_of(rows, run.pools, run.lines)
    places = {row: (record, i) for record in run.records for i, row in enumerate(record.rows) if row in wanted}
    ranks = {row: rank for record in run.records for rank, row in enumerate(record.picked_rows)}
    stories: list[RowStory] = []
    for row in rows:
        record, place = places.get(row, (None, 0))
        measures = record and record.measures
        overlaps, opposes = near.get(row, ([], []))
        text = texts.get(row, Turns("", ""))
        stories.append(
            RowStory(
                line=run.lines[row],
                prompt=short(text.prompt, most),
                response=short(text.response, most),
                pool=None if record is None else record.pool,
                rank=ranks.get(row),
                **{name: getattr(measures, name)[place] if measures else None for name in _MEASURES},
                overlaps=overlaps,
                opposes=opposes,
                serves=serves.get(row, ()),
            )
        )
    return stories


def neighbours_of(rows: Iterable[int], pools: Iterable[PoolGradients], lines: Sequence[Line]) -> dict[int, Near]:
    """For each of `rows`, by number, the picks of its candidate pool with the highest and the lowest cosines."""
    wanted, found = set(rows), dict[int, Near]()
    for pool in pools:
        places = [place for place, row in enumerate(pool.record.rows) if row in wanted]
        if places:
            found |= _near(pool, places, lines)
    return found


def _near(pool: PoolGradients, places: Sequence[int], lines: Sequence[Line]) -> dict[int, Near]:
    rows, chosen = torch.tensor(pool.record.rows), torch.tensor(pool.record.picks)
    picks, directed = unit_rows(pool.uncut.take(chosen))
    picked = rows[chosen[directed.cpu()]]
    count, found = min(NEIGHBOURS, len(picked)), dict[int, Near]()
    for start in range(0, len(places), _BLOCK):
        some = torch.tensor(places[start : start + _BLOCK])
        members, directed = unit_rows(pool.uncut.take(some))
        asked = rows[some[directed.cpu()]]
        cosines = (members @ picks.T).clamp(-1.0, 1.0).cpu()
        cosines[asked[:, None] == picked[None, :]] = 0.0  # a pick is no neighbour of itself
        ends = [cosines.topk(count, dim=1, largest=largest) for largest in (True, False)]
        for i, row in enumerate(cast("list[int]", asked.tolist())):
            highest, lowest = (_named(end.values[i], picked[end.indices[i]], lines) for end in ends)
            found[row] = [one for one in highest if one.cosine > 0], [one for one in lowest if one.cosine < 0]
    return found


def _named(cosines: Tensor, rows: Tensor, lines: Sequence[Line]) -> list[Neighbour]:
    pairs = zip(cast("list[int]", rows.tolist()), cast("list[float]", cosines.tolist()), strict=True)
    return [Neighbour(row, lines[row].id, cosine) for row, cosine in pairs]


def _content(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else str(message.get("tool_calls", ""))


def short(text: str, most: int) -> str:
    """A text, shortened to `most` characters where it is longer."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
