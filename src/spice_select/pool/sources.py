"""The inputs of a pool, resolved: files, saved datasets, hub datasets, rows in memory; each with a name.

Nothing is read here but what is needed to distinguish the kinds; `Source.rows()` reads.
"""

import glob
import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard, cast

import datasets
import fsspec
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError

from spice_select.errors import PoolError
from spice_select.file_options import FileOptions
from spice_select.pool.arrow_rows import dataset_rows, load_folder, load_saved
from spice_select.pool.problems import RawRow, one_line, raw_row
from spice_select.pool.readers import READERS, WHOLE, read_jsonl
from spice_select.pool.streams import UNPACKERS


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy on this machine of the file at an address, which is read in place of it."""

    address: str
    file: Path


PoolInput: TypeAlias = str | Path | Copy | datasets.Dataset | Sequence[Mapping[str, Any]]

_MEMORY = "<memory>"
_PART = r"[\w.\[\]%+-]+"
_HUB_ID = re.compile(rf"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>{_PART})(?=:))?(:(?P<split>[\w.\[\]:%+-]+))?")
_FOLDER = re.compile(rf"(?P<path>.+?)(:(?P<config>{_PART})(?=:))?:(?P<split>{_PART})")
_ADDRESS = re.compile(r"[a-z][a-z0-9+]*://.+")
_SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")
_KNOWN = f"{', '.join(READERS)} (text ones also {', '.join(UNPACKERS)})"


@dataclass(frozen=True, slots=True)
class Source:
    """One input of a run."""

    name: str  # short and unique in the run; the `source` of rows that name none
    label: str  # its name in messages, e.g. `gsm8k.jsonl.gz`
    path: str  # where it is, as given
    file: Path | None  # whose bytes identify it; None where its rows do
    rows: Callable[[], Iterator[RawRow]]  # reads it from the start
    shards: str | None = None  # name of the data set that it is a part of; its rows' source in place of `name`
    filled_nulls: bool = True  # whether its rows come from Arrow, which gives all objects of a column the same keys

    def is_meant(self, name: str) -> bool:
        """Whether `name` is its path, its file's name, its label or its name, or a pattern that one of these fits."""
        places = (self.path, Path(self.path).name, self.label, self.name, self.shards)
        pattern = name.replace("**/", "*")  # which matches no folder as well
        return name in places or any(place is not None and fnmatchcase(place, pattern) for place in places)


def as_list(pools: PoolInput | Sequence[PoolInput]) -> list[PoolInput]:
    """Distinguish one pool from several: a list of rows is one pool, a list of paths or datasets is several."""
    if isinstance(pools, (str, Path, Copy, datasets.Dataset)):
        return [pools]
    if pools and all(isinstance(item, Mapping) for item in pools):
        return [cast(PoolInput, pools)]
    return list(cast("Sequence[PoolInput]", pools))


def resolve_sources(inputs: Sequence[PoolInput]) -> list[Source]:
    """Every input as a named source, in the order given.

    Equal names are distinguished by the parent folder's name, then by a number. Raises `PoolError` if an input does not
    exist, is of no known kind, or is given twice.
    """
    if not inputs:
        raise PoolError("No pool was given.\nName at least one file, saved dataset or hub dataset (owner/name).")
    sources = [source for item in inputs for source in _resolve(item)]
    seen: set[Path] = set()
    for source in sources:
        place = Path(source.path).resolve()
        if source.file is not None and place in seen:
            raise PoolError(f"{source.path}: given twice.\nName each pool file once.")
        seen.add(place)
    return _named_apart(sources)


def options_meant(per_file: Mapping[str, FileOptions], inputs: Sequence[PoolInput]) -> dict[str, FileOptions]:
    """Those of the options of single inputs whose name means one of `inputs`. Raises as `resolve_sources`."""
    sources = resolve_sources(inputs) if per_file else []
    return {name: own for name, own in per_file.items() if any(source.is_meant(name) for source in sources)}


def _resolve(item: PoolInput) -> list[Source]:
    if isinstance(item, str | Path):
        return _resolve_name(str(item))
    if isinstance(item, Copy):
        return [replace(_file(item.file), path=item.address)]
    if isinstance(item, datasets.Dataset):
        return [Source("memory", "dataset", _MEMORY, None, lambda: dataset_rows(item, "dataset"))]
    if isinstance(item, Mapping):
        raise PoolError("An input is a single mapping, not rows.\nPass rows in memory as one list: [[row, row, ...]].")
    return [Source("memory", "rows", _MEMORY, None, lambda: map(raw_row, count(1), item), filled_nulls=False)]


def _resolve_name(item: str) -> list[Source]:
    if item == "-":
        standard_input = Path("/dev/stdin")
        return [Source("stdin", "standard input", "-", None, lambda: read_jsonl(standard_input), filled_nulls=False)]
    if is_address(item):
        return _resolve(downloaded(item))
    path = Path(item).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise PoolError(f"{one_line(item, 100)}: no such file ({error.strerror}).") from error
    if is_folder:
        return [_folder(path, None, "train")]
    if is_file:
        return [_file(path)]
    if glob.has_magic(item) and (shards := sorted(glob.glob(str(path), recursive=True))):  # noqa: PTH207 - any root
        name = one_line(path.name.split("*")[0].strip("-_.") or path.parent.name)
        return [replace(_file(Path(shard)), shards=name) for shard in shards]
    named = _FOLDER.fullmatch(item)
    if named and Path(named["path"]).expanduser().is_dir():
        return [replace(_folder(Path(named["path"]).expanduser(), named["config"], named["split"]), path=item)]
    match = _HUB_ID.fullmatch(item)
    if item == _MEMORY:
        raise PoolError(f"{item}: these rows were given in Python, not as a file.\nSave them and name the file.")
    if match is None or _suffix(path) in READERS:
        raise PoolError(
            f"{item}: no such file.\n"
            "A hub dataset is written owner/name, owner/name:split or owner/name:configuration:split."
        )
    name, config, split = match["name"], match["config"], match["split"] or "train"
    label = ":".join(filter(None, (name, config, split)))
    return [
        Source(name.split("/")[1], label, label, None, lambda: dataset_rows(_load_from_hub(name, config, split), label))
    ]


def _folder(path: Path, config: str | None, split: str) -> Source:
    if (path / "selected.jsonl").is_file():
        raise PoolError(f"{path}: is the directory of a run.\nName the rows it chose: {path / 'selected.jsonl'}")
    if (path / "pool.json").is_file() and (path / "manifest.json").is_file():
        raise PoolError(f"{path}: is a gradient store, which `pick` takes; here name the rows that it was made of.")
    if any((path / name).is_file() for name in _SAVED):
        return Source(
            path.resolve().name, path.name, str(path), None, lambda: dataset_rows(load_saved(path), path.name)
        )
    label = path.name if config is None and split == "train" else ":".join(filter(None, (path.name, config, split)))
    name = path.resolve().name if config is None else f"{path.resolve().name}-{config}"
    return Source(name, label, str(path), None, lambda: dataset_rows(load_folder(path, config, split), label))


def is_address(item: object) -> TypeGuard[str]:
    """Whether an input is the address of a file (https://, hf://, s3://, gs://)."""
    return isinstance(item, str) and _ADDRESS.fullmatch(item) is not None


@cache
def _copies() -> tempfile.TemporaryDirectory[str]:
    """The folder of this process's copies, until it ends."""
    return tempfile.TemporaryDirectory(prefix="spice-select-")


def downloaded(address: str) -> Copy:
    """A copy of a file that `fsspec` opens, made once; raises `PoolError` where it cannot be read."""
    # A folder for each address: files of the same name would be taken for one another.
    own = Path(_copies().name) / hashlib.sha256(address.encode()).hexdigest()[:16]
    options = {"same_names": True, "cache_storage": str(own)}
    try:
        return Copy(address, Path(str(fsspec.open_local(f"simplecache::{address}", simplecache=options))))
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise PoolError(
            f"{address}: cannot be read: {one_line(str(error)) or type(error).__name__}\n"
            "Check the address and the connection; s3:// needs the package s3fs, gs:// gcsfs."
        ) from error


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() in UNPACKERS else path.suffix.lower()


def _file(path: Path) -> Source:
    suffix, packed = _suffix(path), path.suffix if path.suffix.lower() in UNPACKERS else ""
    if suffix not in READERS or (suffix in WHOLE and packed):
        raise PoolError(
            f"{path}: the kind of file is unknown by its name.\nKnown endings: {_KNOWN}. Give it that of what it holds."
        )
    stem = path.name.removesuffix(packed)[: -len(suffix)] or path.name
    name, label = one_line(stem), one_line(path.name)
    return Source(name, label, str(path), path, lambda: READERS[suffix](path), filled_nulls=suffix in WHOLE)


def _load_from_hub(name: str, config: str | None, split: str) -> datasets.Dataset:
    try:
        return datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
        raise PoolError(
            f"{name}:{split}: no such file, and no hub dataset that can be loaded: {one_line(str(error))}\n"
            "Check name, configuration, split and connection (HF_HUB_OFFLINE), or download the data and name its files."
        ) from error


def _named_apart(sources: list[Source]) -> list[Source]:
    """The sources with unique names, and labels that distinguish them."""
    names, labels = Counter(source.name for source in sources), Counter(source.label for source in sources)
    named: dict[str, Source] = {}
    for source in sources:
        folder = "" if source.path == _MEMORY else Path(source.path).resolve().parent.name
        name = f"{folder}-{source.name}" if folder and names[source.name] > 1 else source.name
        label = f"{folder}/{source.label}" if folder and labels[source.label] > 1 else source.label
        if name in named:
            number = next(number for number in count(2) if f"{name}-{number}" not in named)
            name = f"{name}-{number}"
            if label in (other.label for other in named.values()):
                label = f"{label} {number}"
        named[name] = replace(source, name=name, label=label)
    return list(named.values())
