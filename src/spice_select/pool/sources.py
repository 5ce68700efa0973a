"""What the user named as the pool, resolved: files, saved datasets, hub datasets, rows in memory; each with a
name.

Nothing is read here but what is needed to tell the kinds apart; `Source.rows()` reads.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError

from spice_select.errors import PoolError
from spice_select.pool.dataset_rows import dataset_rows
from spice_select.pool.nesting import TOO_DEEP, too_deep
from spice_select.pool.problems import one_line
from spice_select.pool.readers import READERS, RawRow

PoolInput: TypeAlias = str | Path | datasets.Dataset | Sequence[Mapping[str, Any]]

_DATASET_ERRORS: tuple[type[Exception], ...] = (
    OSError, ValueError, KeyError, TypeError, AttributeError, cast("type[Exception]", pa.ArrowException)
)  # fmt: skip
"""What datasets lets through from a folder whose files are damaged or made by hand."""

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<split>[\w.\[\]:%+-]+))?")
_KNOWN = ", ".join(READERS) + " (text ones also .gz)"


@dataclass(frozen=True, slots=True)
class Source:
    """One input of a run.

    Attributes:
        name: short and unique in the run; the `source` of rows that name none.
        label: how messages name it, e.g. `gsm8k.jsonl.gz`.
        path: where it is, as given.
        file: the file whose bytes identify it; None where its rows do.
        rows: reads it from the start.

    """

    name: str
    label: str
    path: str
    file: Path | None
    rows: Callable[[], Iterator[RawRow]]


def as_list(pools: PoolInput | Sequence[PoolInput]) -> list[PoolInput]:
    """Tell one pool from several: a list of rows is one pool, a list of paths or datasets is several."""
    if isinstance(pools, (str, Path, datasets.Dataset)):
        return [pools]
    if pools and all(isinstance(item, Mapping) for item in pools):
        return [cast(PoolInput, pools)]
    return list(cast("Sequence[PoolInput]", pools))


def resolve_sources(inputs: Sequence[PoolInput]) -> list[Source]:
    """Every input as a named source, in the order given.

    Same names are told apart by the parent folder's name, then by a number.

    Raises:
        PoolError: an input does not exist, is of no known kind, or is given twice.

    """
    if not inputs:
        raise PoolError("No pool was given.\nName at least one file, saved dataset or hub dataset (owner/name).")
    sources = [_resolve(item) for item in inputs]
    seen: set[Path] = set()
    for source in sources:
        place = Path(source.path).resolve()
        if source.file is not None and place in seen:
            raise PoolError(f"{source.path}: given twice.\nName each pool file once.")
        seen.add(place)
    return _named_apart(sources)


def _resolve(item: PoolInput) -> Source:
    if isinstance(item, str | Path):
        path = Path(item).expanduser()
        try:
            is_folder, is_file = path.is_dir(), path.is_file()
        except OSError as error:
            raise PoolError(f"{one_line(str(item), 100)}: no such file ({error.strerror}).") from error
        if is_folder:
            return _saved_dataset(path)
        if is_file:
            return _file(path)
        match = _HUB_ID.fullmatch(item) if isinstance(item, str) else None
        if match and _suffix(path) not in READERS:
            return _hub_dataset(match["name"], match["split"] or "train")
        raise PoolError(f"{item}: no such file.\nA hub dataset is written owner/name or owner/name:split.")
    if isinstance(item, datasets.Dataset):
        return Source("memory", "dataset", "<memory>", None, lambda: _dataset_rows(item, "dataset"))
    if isinstance(item, Mapping):
        raise PoolError("An input is a single mapping, not rows.\nPass rows in memory as one list: [[row, row, ...]].")
    return Source("memory", "rows", "<memory>", None, lambda: _memory_rows(item))


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix == ".gz" else path.suffix.lower()


def _file(path: Path) -> Source:
    suffix = _suffix(path)
    if suffix not in READERS or (suffix == ".parquet" and path.suffix == ".gz"):
        raise PoolError(f"{path}: the kind of file is unknown by its name.\nKnown endings: {_KNOWN}.")
    stem = path.name.removesuffix(".gz")[: -len(suffix)] or path.name
    return Source(one_line(stem), one_line(path.name), str(path), path, lambda: READERS[suffix](path))


def _saved_dataset(path: Path) -> Source:
    if (path / "selected.jsonl").is_file():
        raise PoolError(f"{path}: is the directory of a run.\nName the rows it chose: {path / 'selected.jsonl'}")

    def rows() -> Iterator[RawRow]:
        try:
            loaded = datasets.load_from_disk(str(path))
        except _DATASET_ERRORS as error:
            raise PoolError(
                f"{path}: not a dataset saved by datasets.save_to_disk: {one_line(str(error))}\n"
                "Name the data files one by one instead of their folder."
            ) from error
        return _dataset_rows(_train_split(loaded, str(path)), path.name)

    return Source(path.resolve().name, path.name, str(path), None, rows)


def _train_split(loaded: datasets.Dataset | datasets.DatasetDict, path: str) -> datasets.Dataset:
    if isinstance(loaded, datasets.Dataset):
        return loaded
    if "train" in loaded:
        return loaded["train"]
    splits = ", ".join(str(name) for name in loaded)
    raise PoolError(f"{path}: has no split 'train' (splits: {splits}).\nName the folder of one split.")


def _hub_dataset(name: str, split: str) -> Source:
    def rows() -> Iterator[RawRow]:
        """Load the split at the first row asked for."""
        try:
            loaded = datasets.load_dataset(name, split=split)
        except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
            raise PoolError(
                f"{name}:{split}: no such file, and it cannot be had as a hub dataset: {one_line(str(error))}\n"
                "Check the name, the split and the connection (HF_HUB_OFFLINE), or download the data and name its "
                "files."
            ) from error
        return _dataset_rows(loaded, f"{name}:{split}")

    return Source(name.split("/")[1], f"{name}:{split}", f"{name}:{split}", None, rows)


def _dataset_rows(dataset: datasets.Dataset, label: str) -> Iterator[RawRow]:
    number = 0
    try:
        for row in dataset_rows(dataset):
            number = row.number
            yield row
    except _DATASET_ERRORS as error:
        raise PoolError(
            f"{label}: cannot be read after row {number}: {one_line(str(error))}\n"
            "Its files are damaged; write the dataset again."
        ) from error


def _memory_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[RawRow]:
    for number, data in enumerate(cast("Sequence[object]", rows), start=1):
        if isinstance(data, Mapping):
            yield _checked(number, dict(cast("Mapping[str, Any]", data)))
        else:
            yield RawRow(number, None, repr(data), f"is {type(data).__name__}, not a mapping of fields")


def _checked(number: int, data: dict[str, Any]) -> RawRow:
    return RawRow(number, None, "", TOO_DEEP) if too_deep(data) else RawRow(number, data)


def _named_apart(sources: list[Source]) -> list[Source]:
    shared = {s.name for s in sources if sum(s.name == other.name for other in sources) > 1}
    labels = [s.label for s in sources]
    named: list[Source] = []
    used: set[str] = set()
    for source in sources:
        name, label = source.name, source.label
        parent = Path(source.path).resolve().parent.name if source.path != "<memory>" else ""
        if name in shared and parent:
            name = f"{parent}-{name}"
        if labels.count(label) > 1 and parent:
            label = f"{parent}/{label}"
        unique, number = name, 2
        while unique in used:
            unique, number = f"{name}-{number}", number + 1
        used.add(unique)
        if unique != name and not parent:
            label = f"{label} {number - 1}"
        named.append(replace(source, name=unique, label=label))
    return named
