"""Resolve each trainer's newest release alone and together with this project, and show what the latter changes.

Needs uv (`pip install uv`) and a package index: python resolutions.py. Nothing is installed. For each trainer it prints
a line of a Markdown table: the versions of the packages that both use, and those that the trainer alone would get but
does not get beside this project. The exit code is 1 if a trainer and this project cannot share an environment.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
TRAINERS = ("llamafactory==0.9.5", "axolotl==0.19.0", "trl", "trl==0.24.0", "ms-swift", "unsloth")
SHARED = ("torch", "transformers", "peft", "datasets", "accelerate", "trl")
OPTIONS = "-q --no-config --no-header --no-annotate --python-version 3.11 --python-platform linux"


def resolved(trainer: str, *others: Path) -> dict[str, str]:
    """The version of every package that the trainer needs, on Linux with Python 3.11."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.in"
        wanted.write_text(f"{trainer}\n", encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", *OPTIONS.split(), wanted, *others]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise LookupError(done.stderr)
    return dict(re.findall(r"^([\w.-]+)==(\S+)", done.stdout, re.MULTILINE))


def line(trainer: str) -> str:
    """The trainer's line of the table. Raises `LookupError` with uv's reason where there is no common environment."""
    name = trainer.partition("==")[0]
    alone, together = resolved(trainer), resolved(trainer, PROJECT)
    changed = [f"{key} {alone[key]} to {together.get(key)}" for key in alone if alone[key] != together.get(key)]
    added = sorted(together.keys() - alone.keys())
    cells = [f"{name} {together[name]}", *(together.get(key, "") for key in SHARED)]
    return f"| {' | '.join([*cells, ', '.join(changed) or 'none', ', '.join(added) or 'none'])} |"


def main() -> int:
    head = ("trainer", *SHARED, "changed", "added")
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    failed = False
    for trainer in TRAINERS:
        try:
            print(line(trainer), flush=True)
        except LookupError as error:
            failed = True
            print(f"{trainer}: no common environment\n{error}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
