"""Benchmark files in a folder to converted rows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spice_select.errors import ConfigError
from spice_select.pool.readers import READERS

Convert = Callable[[Mapping[str, Any]], dict[str, Any] | None]
SUFFIXES = tuple(
    f"{suffix}{packed}" for suffix in READERS for packed in ("", ".gz") if (suffix, packed) != (".parquet", ".gz")
)


def find_file(folder: Path, stems: Sequence[str]) -> Path | None:
    """The first `<stem><suffix>` that is there, stems before suffixes."""
    paths = (folder / f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def need_file(folder: Path, task: str, stems: Sequence[str]) -> Path:
    """As `find_file`.

    Raises:
        ConfigError: there is none.

    """
    path = find_file(folder, stems)
    if path is None:
        names = " or ".join(f"{stem}.jsonl" for stem in stems)
        raise ConfigError(
            f"{folder}: no file of {task}; looked for {names} (also {', '.join(SUFFIXES[1:])}).\n"
            "Put it there, or leave the folder out to let lm-eval fetch its own from the hub."
        )
    return path


def read_rows(path: Path, convert: Convert) -> list[dict[str, Any]]:
    """Every test item of a file, converted.

    Raises:
        PoolError: the file is damaged.
        ConfigError: a row cannot be parsed or lacks a field; no test item at all.

    """
    rows: list[dict[str, Any]] = []
    reader = READERS[path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix]
    for raw in reader(path):
        if raw.data is None:
            raise ConfigError(f"{path.name}, row {raw.number}: {raw.problem}.")
        try:
            converted = convert(raw.data)
        except ConfigError as error:
            raise ConfigError(f"{path.name}, row {raw.number}: {error}") from None
        if converted is not None:
            rows.append(converted)
    if not rows:
        raise ConfigError(f"{path}: holds no test item.")
    return rows
