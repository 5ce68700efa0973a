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
_SETTINGS = ("method", "budget", "features", "pool_size", "scale", "rank", "penalty", "alpha", "alpha_mode", "seed")


def hub_sources(manifest: Mapping[str, Any]) -> list[str]:
    """The hub datasets that a run's rows come from, in order; files and rows in memory are none."""
    found = (_HUB_ID.fullmatch(file["path"]) for file in manifest["inputs"] if _is_remote(file))
    return list(dict.fromkeys(match[1] or match[2] for match in found if match))


def dataset_card(name: str, manifest: Mapping[str, Any], licences: Mapping[str, str], held: int) -> str:
    """The card of the repository `name`; `licences` by hub dataset, of `held` rows a split for evaluation is made."""
    totals, config = manifest["totals"], manifest["config"]
    splits = [{"split": "train", "path": TRAIN_FILE}]
    splits += [{"split": "validation", "path": EVAL_FILE}] if held else []
    front = {
        "pretty_name": name.split("/")[1],
        "tags": ["spice-select", "data-selection", "instruction-tuning"],
        "task_categories": ["text-generation"],
        "size_categories": [_size(totals["kept"])],
        "configs": [
            {"config_name": "default", "data_files": splits},
            {"config_name": "scores", "data_files": [{"split": "train", "path": SCORES}]},
        ],
    }
    if sources := hub_sources(manifest):
        front["source_datasets"] = sources
    inputs = [
        (found[0] if (found := hub_sources({"inputs": [file]})) else file["name"], file) for file in manifest["inputs"]
    ]
    targets = [Path(file["name"] if "name" in file else file["path"]).name for file in manifest.get("target", [])]
    values = {
        "name": name, "front": front, "totals": totals, "config": config, "inputs": inputs, "licences": licences,
        "targets": targets, "settings": {key: config[key] for key in _SETTINGS}, "held": held, "files": DATA,
        "model": Path(manifest["model"]["name"]).name if Path(manifest["model"]["name"]).is_absolute()
        else manifest["model"]["name"], "version": manifest["versions"]["spice-select"],
    }  # fmt: skip
    return rendered("card.md", values)


def _is_remote(file: Mapping[str, Any]) -> bool:
    """Whether an input came from the hub: only of hub datasets and addresses does the path say what they are."""
    return file["path"] == file["label"] or "://" in file["path"]


def _size(rows: int) -> str:
    """The hub's category of a number of rows."""
    borders = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
    return next((name for most, name in borders.items() if rows < most), "10M<n<100M")
