"""Small JSON records beside data: how they are read, written and compared; and checksums of files."""

import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from spice_select.errors import OutputError
from spice_select.files.atomic import write_text

_SHOWN = 60  # characters of a value


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """A file's JSON object; raises `OutputError`, which ends with `remedy`, where there is none."""
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{path}: cannot be read ({error}).\n{remedy}") from None
    if not isinstance(content, dict):
        raise OutputError(f"{path}: is not a JSON object.\n{remedy}")
    return cast(dict[str, Any], content)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys all differ: of a key that damage has doubled JSON's reader would take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def write_json(path: Path, content: object) -> None:
    """Write lists, dicts, texts and numbers as JSON, whole or not at all."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def damage_reported(path: Path, remedy: str, *errors: type[Exception]) -> Generator[None]:
    """Raise `OutputError` where the block raises one of `errors`: `path` is damaged, and `remedy` says what to do."""
    try:
        yield
    except errors as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise OutputError(f"{path}: is damaged ({reason}).\n{remedy}") from None


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first four settings that differ, as `key (was 1, is 2)`; empty where none does."""
    keys = [key for key in {**saved, **wanted} if saved.get(key) != wanted.get(key)]
    return "; ".join(f"{key} (was {_short(saved.get(key))}, is {_short(wanted.get(key))})" for key in keys[:4])


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
