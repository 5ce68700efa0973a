"""How well the picks of a run cover its target, from the run's records: no gradient is read."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from spice_select.choices import TargetMeasures, target_coverage
from spice_select.option_values import TARGETED
from spice_select.report.content import Curve, Served, TargetRow, TargetStory
from spice_select.report.finished_run import FinishedRun
from spice_select.report.row_stories import conversation_turns, short
from spice_select.report.theory import curve
from spice_select.row_tables import StoredChat

RULES = {
    "variance": "Each pick was the row that explains most of what was left of the target's variance.",
    "information": "Rows were picked by information along the target's directions.",
    "less": "Rows were picked by LESS: the highest mean cosine with the rows of a target.",
    "rds": "Rows were picked by RDS+: the target's rows, or several targets, took turns taking their nearest row.",
    "tsds": "Rows were drawn by TSDS: with probabilities from optimal transport between target and pool.",
}
"""The rule of a record -> how rows were picked."""
WORST = 20  # target rows that are listed
_TEXT = 400  # most characters of a prompt or a response


def target_story_of(run: FinishedRun, notes: list[str]) -> TargetStory | None:
    """The coverage of a run's target; None where it had none. `notes` says where texts are missing."""
    found = [record.target for record in run.records if record.target is not None]
    means = target_coverage(run.records)
    if means is None:
        return None
    chats = run.target_chats()
    if chats is None:
        notes.append("The texts of the target rows are missing.")
    rows = [_row(place, found, chats) for place in range(means.rows)]
    worst = sorted(rows, key=lambda row: row.picks)
    unlike = [row for row in sorted(rows, key=lambda row: row.whole) if row.whole < means.whole / 2]
    return TargetStory(
        rule=RULES[found[0].rule],
        directed=found[0].rule not in TARGETED,
        rows=means.rows,
        picks=means.picks,
        whole=means.whole,
        random=means.random,
        certificate=means.certificate,
        gains=means.gains,
        curve=_curve(found),
        worst=worst[:WORST],
        unlike=unlike[:WORST],
    )


def served_by(run: FinishedRun) -> dict[int, list[Served]]:
    """For each pick, by row number, the target rows that it serves most."""
    records = [(record, record.target) for record in run.records if record.target is not None]
    chats = run.target_chats() if records else None
    return {
        record.rows[place]: [Served(_name(row, chats), share) for row, share in served]
        for record, target in records
        for place, served in zip(record.picks, target.serves, strict=True)
    }


def _row(place: int, found: Sequence[TargetMeasures], chats: Sequence[StoredChat] | None) -> TargetRow:
    means = {name: fmean(getattr(target, name)[place] for target in found) for name in ("picks", "whole", "random")}
    if chats is None:
        return TargetRow(_name(place, chats), "", "", "", **means)
    chat = chats[place]
    text, location = conversation_turns(chat.conversation), f"{chat.row.source}, row {chat.row.number}"
    return TargetRow(chat.id, location, short(text.prompt, _TEXT), short(text.response, _TEXT), **means)


def _name(place: int, chats: Sequence[StoredChat] | None) -> str:
    return f"row {place + 1} of the target" if chats is None else chats[place].id


def _curve(found: Sequence[TargetMeasures]) -> Curve:
    if len(found) == 1:
        only = found[0]
        return Curve(only.counts, only.curve, only.curve, only.curve)
    counts = max((target.counts for target in found), key=lambda counts: counts[-1:])
    lines = [
        [float(np.interp(count, target.counts, target.curve)) for count in counts if count <= target.counts[-1]]
        for target in found
        if target.curve
    ]
    averaged = curve(lines)
    return replace(averaged, picks=[counts[place - 1] for place in averaged.picks])
