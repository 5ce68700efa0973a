"""The card of a run's dataset on the hub: its README.md. Contract: pure text, and no path of this machine in it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spice_select.files.directory import SCORES
from spice_select.output.recipes import rendered
from spice_select.output.trainers import EVAL_FILE, TRAIN_FILE

CARD = "README.md"
DATA = (TRAIN_FILE, EVAL_FILE, "selected.jsonl", SCORES)
"""What goes to the hub beside the card: the chosen rows, the ids and scores of all. `EVAL_FILE` may be absent."""

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+):[\w.\[\]:%+-]+|hf://datasets/([\w.-]+/[\w.-]+?)(?:@[^/]*)?/.+")


def hub_sources(manifest: Mapping[str, Any]) -> list[str]:
    """The hub datasets that a run's rows come from, in order; files and rows in memory are none."""
    return list(dict.fromkeys(found for file in manifest["inputs"] if (found := _hub_id(file))))


def dataset_card(name: str, manifest: Mapping[str, Any], licences: Mapping[str, str], held: int) -> str:
    """The card of the repository `name`; `licences` by hub dataset, of `held` rows a split for evaluation is made."""
    totals, config = manifest["totals"], manifest["config"]
    splits = [{"split": "train", "path": TRAIN_FILE}]
    splits += [{"split": "validation", "path": EVAL_FILE}] if held else []
    front = {
        "tags": ["spice-select", "data-selection", "instruction-tuning"],
        "configs": [
            {"config_name": "default", "data_files": splits},
            {"config_name": "scores", "data_files": [{"split": "train", "path": SCORES}]},
        ],
    }
    if sources := hub_sources(manifest):
        front["source_datasets"] = sources
    inputs = [(_hub_id(file) or file["name"], file) for file in manifest["inputs"]]
    model, targets = manifest["model"]["name"], [Path(file["path"]).name for file in manifest.get("target", [])]
    values = {
        "name": name, "front": front, "totals": totals, "config": config, "inputs": inputs, "licences": licences,
        "targets": targets, "held": held, "version": manifest["versions"]["spice-select"],
        "model": Path(model).name if Path(model).is_absolute() else model,
    }  # fmt: skip
    return rendered("card.md", values)


def _hub_id(file: Mapping[str, Any]) -> str | None:
    """The hub dataset that an input is, if it is one: only then is its path its label, or an hf:// address."""
    found = _HUB_ID.fullmatch(file["path"]) if file["path"] == file["label"] or "://" in file["path"] else None
    return None if found is None else found[1] or found[2]
