"""Small records in a study's directory: digests that name what was made, values with a type, seconds that add up."""

import hashlib
import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from spice_select.errors import OutputError
from spice_select.files.locks import claimed
from spice_select.files.records import write_json


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


def seconds_beside(path: Path) -> Path:
    """The file that says how many seconds `path` took to make."""
    return path.with_name(f"{path.name}.seconds.json")


def seconds_of(path: Path) -> float:
    """Seconds that all processes together spent on `path`; 0 where no command came to its end."""
    beside = seconds_beside(path)
    return read_json(beside, float) if beside.exists() else 0.0


@contextmanager
def adding_seconds(path: Path) -> Generator[None]:
    """Add the time of the block to the seconds of `path`; those of a killed process are lost."""
    started = time.perf_counter()
    yield
    spent = time.perf_counter() - started
    with claimed(path.parent, seconds_beside(path).name):
        write_json(seconds_beside(path), seconds_of(path) + spent)
