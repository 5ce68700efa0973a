"""The JSON files of a study: written whole or not at all; numbers that are not finite are null."""

import json
import math
from pathlib import Path
from typing import Any, cast

from spice_select.errors import OutputError
from spice_select.files.atomic import write_text


def write_json(path: Path, content: object, indent: int | None = None) -> None:
    """Write lists, dicts, texts and numbers."""
    write_text(path, json.dumps(_finite(content), indent=indent, allow_nan=False) + "\n")


def read_json(path: Path, remedy: str = "delete it and run the study again") -> dict[str, Any]:
    """Read an object.

    Raises:
        OutputError: the file is damaged; the message ends with `remedy`.

    """
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{path}: is damaged ({error}); {remedy}.") from error
    if not isinstance(content, dict):
        raise OutputError(f"{path}: is damaged (no JSON object); {remedy}.")
    return cast(dict[str, Any], content)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast(dict[str, object], value).items()}
    if isinstance(value, list):
        return [_finite(item) for item in cast(list[object], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
