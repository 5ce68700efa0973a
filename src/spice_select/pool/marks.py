"""Marks in the data that say what is not to be learnt: on a turn, as a list for all turns, or on a row.

A turn is context if `train`, `training`, `loss`, `loss_mask` or `weight` on it is false or 0, or its entry in the row's
`mask` or `loss_mask` is. A row is left out if its `train`, `training`, `loss`, `label` or `kto_tag` is false or its
`weight` 0. Marks that cannot be followed exactly are a `RowProblem`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from spice_select.pool.problems import MarkedRow, RowProblem, one_line

TURN_MARKS = ("train", "training", "loss", "loss_mask", "weight")
ROW_LISTS = ("mask", "loss_mask")
ROW_MARKS = ("train", "training", "loss", "label", "kto_tag")
ROW_WEIGHT = "weight"

_UNCLEAR = ("mask", "masked", "train_detail")
"""Marks on a turn that tools read differently, or that concern parts of a turn."""


def is_row_mark(name: str, value: object) -> bool:
    """Whether a row's field is a mark that is followed; a label of another type, for example, names a class."""
    if name == ROW_WEIGHT:
        return isinstance(value, int | float) and value in (0, 1)
    return (name in ROW_MARKS and isinstance(value, bool)) or (name in ROW_LISTS and isinstance(value, list))


def check_row_marks(row: Mapping[str, Any]) -> None:
    """Raise `MarkedRow` if the row as a whole is marked as not to be learnt."""
    for name in ROW_MARKS:
        if row.get(name) is False:
            raise MarkedRow(f"field '{name}' is false, which marks the row as not to be learnt")
    weight = row.get(ROW_WEIGHT)
    if isinstance(weight, int | float) and weight == 0:
        raise MarkedRow(f"field '{ROW_WEIGHT}' is 0, which marks the row as not to be learnt")


def take_turn_marks(messages: Sequence[dict[str, Any]], field: str) -> set[int]:
    """Remove the marks from messages with a `role`; the assistant messages that they make context, by place."""
    context: set[int] = set()
    for place, message in enumerate(messages):
        found = {name: message.pop(name) for name in (*TURN_MARKS, *_UNCLEAR) if name in message}
        if message["role"] != "assistant":
            continue
        where = f"field '{field}', message {place + 1}"
        for name in _UNCLEAR:
            if name in found:
                raise RowProblem(f"{where}, '{name}' is no mark that can be followed; write \"train\": false or true")
        learnt = {name: _is_learnt(value, f"{where}, '{name}'") for name, value in found.items()}
        if len(set(learnt.values())) > 1:
            raise RowProblem(f"{where}, {' and '.join(map(repr, learnt))} contradict each other")
        if False in learnt.values():
            context.add(place)
    return context


def listed_marks(row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> set[int]:
    """The assistant messages that the row's `mask` or `loss_mask` makes context, by place.

    The list has an entry for every message, or for every assistant message.
    """
    context: set[int] = set()
    assistants = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    for name in ROW_LISTS:
        marks: object = row.get(name)
        if marks is None:
            continue
        entries = cast("list[object]", marks) if isinstance(marks, list) else []
        places = {len(messages): range(len(messages)), len(assistants): assistants}.get(len(entries))
        if places is None or not entries:
            raise RowProblem(
                f"field '{name}' is no list of {len(messages)} marks, one for each message (or {len(assistants)}, one "
                "for each assistant message)"
            )
        learnt = [_is_learnt(entry, f"field '{name}', entry {n}") for n, entry in enumerate(entries, 1)]
        context |= {place for place, value in zip(places, learnt, strict=True) if not value} & set(assistants)
    return context


def _is_learnt(value: object, where: str) -> bool:
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise RowProblem(f"{where} is {one_line(repr(value), 40)}; only 0 and 1, or false and true, can be followed")
