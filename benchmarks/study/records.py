"""The records of a study as one small file, and a directory in which `spice-select study` goes on from them.

    python benchmarks/study/records.py pack DIR methods_1k.json
    python benchmarks/study/records.py unpack methods_1k.json methods_1k.yaml --pool POOL --heldout DATA --output DIR

What is packed: study.json, untrained.json, of each choice its ids and cost, of each fine-tuning its seconds and the
losses by held-out row. No text of any row, and no weights: neither is needed to go on, as the rows come from the pool.
A study of several targets draws rows of its own, which are not packed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from spice_select.files.atomic import write_text
from spice_select.files.records import write_json
from spice_select.output.trainers import TRAIN_FILE
from spice_select.output.write_run import write_training_table  # pyright: ignore[reportUnknownVariableType]
from spice_select.progress import NoProgress
from spice_select.study.config import load_study
from spice_select.study.cost import COST
from spice_select.study.directory import identity_of
from spice_select.study.run import read_study
from spice_select.training.checkpoint import RECORD

ABOUT = (
    "Records of a study as spice-select study writes them: study.json, untrained.json, of cells/ each cell.json and "
    "cost.json, of tuned/ each heldout.json and the seconds of its finetune.json; losses by held-out row. "
    "docs/study.md has the table, and benchmarks/study/records.py unpacks them."
)


def pack(directory: Path, file: Path) -> None:
    """Write what is finished in a study's directory into `file`, one line for each choice and fine-tuning."""
    cells = {
        path.parent.name: {"cell": _json(path), "cost": _json(path.with_name(COST))}
        for path in sorted(directory.glob("cells/*/cell.json"))
    }
    tuned = {
        path.parent.name: {"seconds": _json(path.parent / "checkpoint" / RECORD)["seconds"], "losses": _json(path)}
        for path in sorted(directory.glob("tuned/*/heldout.json"))
    }
    whole = {"about": ABOUT, "study": _json(directory / "study.json"), "untrained": _json(directory / "untrained.json")}
    lists = [f'"{name}": {{\n{_lines(records)}\n}}' for name, records in (("cells", cells), ("tuned", tuned))]
    write_text(file, "{\n" + ",\n".join([_lines(whole), *lists]) + "\n}\n")
    print(f"{file}: {len(cells)} choices, {len(tuned)} fine-tunings")


def unpack(file: Path, study_file: Path, pool: str, heldout: str, directory: Path) -> None:
    """Write the records into the new `directory`, each choice with its rows of the pool as `finetune` reads them."""
    if directory.exists():
        raise SystemExit(f"{directory}: exists already; choose a new --output.")
    records = _json(file)
    study = read_study(load_study(study_file, {"pool": [pool], "heldout": [heldout]}), directory, NoProgress())
    identity = json.loads(json.dumps(identity_of(study.config, study.prepared, study.heldout, {})))
    if identity != records["study"]:
        other = sorted(key for key in identity if identity[key] != records["study"].get(key))
        raise SystemExit(f"{file}: is of a study with other settings: {', '.join(other)}.")
    directory.mkdir(parents=True)
    rows = study.prepared.pool.examples
    for name, one in records["cells"].items():
        place, ids = directory / "cells" / name, {*one["cell"]["ids"]}
        (place / "selection").mkdir(parents=True)
        write_training_table(place / "selection" / TRAIN_FILE, [row for row in rows if row.id in ids])
        write_json(place / COST, one["cost"])
        write_json(place / "cell.json", one["cell"])
    for name, one in records["tuned"].items():
        (directory / "tuned" / name / "checkpoint").mkdir(parents=True)
        write_json(directory / "tuned" / name / "checkpoint" / RECORD, {"seconds": one["seconds"]})
        write_json(directory / "tuned" / name / "heldout.json", one["losses"])
    write_json(directory / "untrained.json", records["untrained"])
    write_json(directory / "study.json", records["study"])
    print(f"{directory}: {len(records['cells'])} choices, {len(records['tuned'])} fine-tunings")


def _lines(records: dict[str, Any]) -> str:
    """The entries of a JSON object, one to a line."""
    return ",\n".join(f"{json.dumps(key)}: {json.dumps(one, ensure_ascii=False)}" for key, one in records.items())


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("directory", type=Path)
    packing.add_argument("file", type=Path)
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("file", type=Path)
    unpacking.add_argument("study", type=Path)
    unpacking.add_argument("--pool", required=True)
    unpacking.add_argument("--heldout", required=True)
    unpacking.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    if given.command == "pack":
        pack(given.directory, given.file)
    else:
        unpack(given.file, given.study, given.pool, given.heldout, given.output)
