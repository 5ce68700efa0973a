"""Small records in a study's directory: digests that name what was made, and values with a type."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from spice_select.errors import OutputError


def digest(content: object) -> str:
    """A short name for a JSON value, different for different values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def read_json(path: Path, kind: Any) -> Any:
    """Read a value of the type `kind`. Raises `OutputError` where the file holds no such value."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(f"{path}: is damaged ({reason}).\nDelete it and run the study again.") from error
