"""What an audit finds of what was planted: copies, rewordings and swapped answers.

    python benchmarks/audit.py POOL.jsonl --output DIR

Of the pool's rows with one question and one answer, 5 % are copied under another id, 5 % are copied with the question
put into another sentence (five templates), and 5 % exchange answers in pairs within their source. The pool is chosen
from with `run --candidates all` and audited with `--answers`. Near-duplicates are ranked by cosine, rows by conflict,
and suspects as the audit ranks them: recall and precision are those of as many entries as were planted (so they are
equal but where the audit lists fewer), and for what an audit lists by default also those of the list. Writes its
section of benchmarks/RESULTS.md. An existing DIR is used as it is.
"""

import argparse
import gzip
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report import machine, write_section
from spice_select.information.diversity import unit_rows
from spice_select.proxy.loading import pick_device
from spice_select.report.answers import suspects_of
from spice_select.report.audit import SAME
from spice_select.report.finished_run import FinishedRun, open_run

SHARE = 0.05
TEMPLATES = (
    "I have a request. {}\nPlease answer it.",
    "Can you help me with this? {}",
    "{}\n\nThank you in advance!",
    "Here is a task for you: {}",
    "Question: {}\nAnswer:",
)

Row = dict[str, Any]


def planted(rows: Sequence[Row], chance: random.Random) -> tuple[list[Row], dict[str, set[frozenset[str]]], set[str]]:
    """The pool with what was planted; pairs of ids by kind; ids of rows with swapped answers."""
    single = [row for row in rows if len(row["messages"]) == 2]
    count = round(SHARE * len(rows))
    order = chance.sample(single, len(single))
    pool = {row["id"]: row for row in rows}
    pairs: dict[str, set[frozenset[str]]] = {"copies": set(), "rewordings": set()}
    for place, row in enumerate(order[: 2 * count]):
        kind, (question, answer) = ("copies", "rewordings")[place >= count], row["messages"]
        text = question["content"] if place < count else TEMPLATES[place % 5].format(question["content"])
        name = f"{row['id']}#{kind}"
        pool[name] = {**row, "id": name, "messages": [{"role": "user", "content": text}, answer]}
        pairs[kind].add(frozenset((row["id"], name)))
    swapped: set[str] = set()
    for one, other in mates(order[2 * count :], chance):
        if len(swapped) < count:
            swapped |= {one["id"], other["id"]}
            for row, mate in ((one, other), (other, one)):
                pool[row["id"]] = {**row, "messages": [row["messages"][0], mate["messages"][1]]}
    return chance.sample(list(pool.values()), len(pool)), pairs, swapped


def mates(rows: Sequence[Row], chance: random.Random) -> list[tuple[Row, Row]]:
    """Pairs of rows of one source with different answers, in random order."""
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append(row)
    pairs = [pair for group in by_source.values() for pair in zip(group[::2], group[1::2], strict=False)]
    chance.shuffle(pairs)
    return [(one, other) for one, other in pairs if one["messages"][1] != other["messages"][1]]


def run(pool: Path, output: Path) -> None:
    program = [sys.executable, "-m", "spice_select"]
    subprocess.run([*program, "run", str(pool), "--candidates", "all", "--output", str(output)], check=True)
    subprocess.run([*program, "audit", str(output), "--answers"], check=True)


def duplicate_lines(finished: FinishedRun, pairs: dict[str, set[frozenset[str]]]) -> list[str]:
    (pool,) = finished.pools
    ids = [finished.lines[row].id for row in pool.record.rows]
    unit, places = unit_rows(pool.unscaled.block(0, pool.unscaled.rows))
    cosines = (unit @ unit.T).triu(diagonal=1)
    near = (cosines >= 0.3).nonzero()
    ranked = near[cosines[near[:, 0], near[:, 1]].argsort(descending=True, stable=True)]
    found = [
        (frozenset((ids[int(places[one])], ids[int(places[other])])), float(cosines[one, other]))
        for one, other in ranked.tolist()
    ]
    both = set.union(*pairs.values())
    lines: list[str] = []
    for kind, wanted in (*pairs.items(), ("near-duplicates of both kinds", both)):
        others = both - wanted
        top = [pair for pair, _ in found if pair not in others][: len(wanted)]
        above = [pair for pair, cosine in found if cosine >= SAME and pair not in others]
        lines.append(line(kind, wanted, top, above))
    return lines


def line(kind: str, wanted: set[Any], top: Sequence[Any], listed: Sequence[Any]) -> str:
    hits, all_hits = len(wanted & set(top)), len(wanted & set(listed))
    return (
        f"| {kind} | {len(wanted)} | {hits / len(wanted):.2f} | {len(listed)} | {all_hits / len(wanted):.2f} | "
        f"{all_hits / max(1, len(listed)):.2f} |"
    )


def conflict_line(finished: FinishedRun, swapped: set[str]) -> str:
    """Whether swapped answers are among the rows most opposed to the picks."""
    (record,) = finished.records
    assert record.measures is not None
    pairs = zip(record.measures.conflict, record.rows, strict=True)
    ranked = [finished.lines[row].id for _, row in sorted(pairs, key=lambda pair: (-pair[0], pair[1]))]
    listed = ranked[: sum(value > 0 for value in record.measures.conflict)]
    return line("swapped answers, by conflict", swapped, ranked[: len(swapped)], listed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    opened = gzip.open if arguments.pool.suffix == ".gz" else open
    with opened(arguments.pool, "rt", encoding="utf-8") as file:
        rows = [json.loads(text) for text in file]
    pool, pairs, swapped = planted(rows, random.Random(0))
    if not arguments.output.exists():
        arguments.output.mkdir(parents=True)
        path = arguments.output / "planted.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in pool), encoding="utf-8")
        run(path, arguments.output / "chosen")
    finished = open_run(arguments.output / "chosen")
    suspects = [finding.line.id for finding in suspects_of(finished) or ()]
    lines = [
        machine(pick_device("auto")),
        "",
        f"{len(rows):,} rows; planted: {sum(map(len, pairs.values()))} duplicates, {len(swapped)} swapped answers. "
        f"Listed: pairs with a cosine of at least {SAME}, rows with a conflict above 0, suspects of `--answers`.",
        "",
        "| planted | count | recall and precision at the count | listed | recall of the list | its precision |",
        "| --- | --: | --: | --: | --: | --: |",
        *duplicate_lines(finished, pairs),
        line("swapped answers, by `--answers`", swapped, suspects[: len(swapped)], suspects),
        conflict_line(finished, swapped),
    ]
    write_section("What an audit finds", "audit.py", lines)


if __name__ == "__main__":
    main()
