"""The JSON of `spice-select evaluate`, kept after every finished part: a later failure loses nothing measured."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spice_select.errors import OutputError
from spice_select.files.atomic import write_text

FORMAT = "spice-select-evaluation"
VERSION = 1


@dataclass(slots=True)
class Report:
    """What is known so far, see docs/output.md; a part not asked for, or not finished, is null or empty.

    Attributes:
        path: the file, written whole each time; None keeps none.
        content: what it holds.
        begun: whether there is a finished part.

    """

    path: Path | None
    content: dict[str, Any] = field(
        default_factory=lambda: {
            "format": FORMAT,
            "version": VERSION,
            "complete": False,
            "checkpoint": None,
            "fingerprint": None,
            "heldout": None,
            "tasks": {},
            "against": None,
        }
    )
    begun: bool = False

    def keep(self, **parts: Any) -> None:
        """Take finished parts in.

        Raises:
            OutputError: the file cannot be written.

        """
        self.content |= parts
        if self.path is not None:
            write_text(self.path, json.dumps(self.content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
        self.begun = True


def check_report_path(path: Path, overwrite: bool, data: Iterable[str]) -> None:
    """Refuse what cannot or should not be written, before hours are spent.

    Raises:
        OutputError: see the messages.

    """
    if path.is_dir():
        raise OutputError(f"{path}: is a directory; --output takes a file, e.g. {path / 'evaluation.json'}.")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: no such directory; make it, or choose another --output.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path.parent}: cannot be written to; choose another --output.")
    if path.resolve() in {Path(name).resolve() for name in data}:
        raise OutputError(f"{path}: is an input and would be replaced; choose another --output.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; --overwrite replaces it, or choose another --output.")
