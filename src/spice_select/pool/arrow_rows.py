"""Rows of Arrow tables: of Parquet files, and of datasets of the library `datasets`.

A dataset's rows come as they are stored, with JSON columns parsed. The library would decode pictures, sound, documents
and the like, wherever in a row they lie, and to decode one it opens whatever file the row names.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError
from datasets.features.features import require_decoding  # pyright: ignore[reportUnknownVariableType]

from spice_select.errors import PoolError
from spice_select.pool import streams
from spice_select.pool.problems import RawRow, one_line, raw_row
from spice_select.pool.streams import refuse_bomb, too_long

_JSON = cast("type[Any]", getattr(datasets, "Json", ()))  # of datasets from 4.7 on; an instance of () is nothing
HAS_JSON = bool(_JSON)
"""Whether `datasets` has a type for values of no common type."""
_ARROW_FILE = b"ARROW1"  # how the file format begins; the stream format has no such mark
_BATCH = 128  # rows of an Arrow table turned into Python values at once
_ARROW_ERRORS: tuple[type[Exception], ...] = (cast("type[Exception]", pa.ArrowException), OSError, UnicodeDecodeError)
_DATASET_ERRORS: tuple[type[Exception], ...] = (*_ARROW_ERRORS, ValueError, KeyError, TypeError, AttributeError)
"""What `datasets` lets through from a folder whose files are damaged or made by hand."""


def read_parquet(path: Path) -> Iterator[RawRow]:
    """The rows of a Parquet file, row groups in order."""
    return _read_batches(path, "Parquet", _parquet_batches)


def read_arrow(path: Path) -> Iterator[RawRow]:
    """The rows of an Arrow file or stream, such as `datasets` keeps in its cache."""
    return _read_batches(path, "Arrow", _arrow_batches)


def _read_batches(path: Path, kind: str, batches: Callable[[Path], Iterator[Any]]) -> Iterator[RawRow]:
    number = 0
    try:
        for batch in batches(path):
            for row in _rows_of_batch(batch, number):
                number = row.number
                yield row
    except _ARROW_ERRORS as error:
        raise PoolError(
            f"{path.name}: cannot be read as {kind} after row {number}: {one_line(str(error))}\n"
            "The file is damaged or of another kind; copy it again."
        ) from error


def _parquet_batches(path: Path) -> Iterator[Any]:
    decoded = 0
    with pq.ParquetFile(path) as file:
        for batch in cast("Iterable[Any]", file.iter_batches(batch_size=_BATCH)):
            decoded += _size(batch)
            remedy = "If that is intended, write its rows to a .jsonl file and name that."
            refuse_bomb(path, decoded, path.stat().st_size, remedy)
            yield batch


def _arrow_batches(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        is_stream = file.read(len(_ARROW_FILE)) != _ARROW_FILE
        file.seek(0)
        reader: Any = pa.ipc.open_stream(file) if is_stream else pa.ipc.open_file(file)
        for batch in reader if is_stream else map(reader.get_batch, range(reader.num_record_batches)):
            batch.validate(full=True)  # a damaged offset would end the process where its value is read
            yield batch


def load_folder(path: Path, config: str | None = None, split: str = "train") -> datasets.Dataset:
    """A folder of data files as `datasets.load_dataset` reads it, README.md's configurations included.

    Raises `PoolError`.
    """
    try:
        return datasets.load_dataset(str(path), config, split=split)
    except (*_DATASET_ERRORS, DatasetsError) as error:
        raise PoolError(
            f"{path}: cannot be read as a folder of data files: {one_line(str(error))}\n"
            f"Name a configuration and a split as {path}:CONFIG:SPLIT, or the data files one by one."
        ) from error


def load_saved(path: Path) -> datasets.Dataset:
    """The dataset in a folder of `save_to_disk`, the split `train` if it holds several. Raises `PoolError`."""
    try:
        loaded = datasets.load_from_disk(str(path))
    except _DATASET_ERRORS as error:
        raise PoolError(
            f"{path}: not a dataset saved by datasets.save_to_disk: {one_line(str(error))}\n"
            "Name the data files one by one instead of their folder."
        ) from error
    if isinstance(loaded, datasets.Dataset):
        return loaded
    if "train" not in loaded:
        splits = ", ".join(str(name) for name in loaded)
        raise PoolError(f"{path}: has no split 'train' (splits: {splits}).\nName the folder of one split.")
    return loaded["train"]


def dataset_rows(dataset: datasets.Dataset, label: str) -> Iterator[RawRow]:
    """The rows of a dataset; `label` names it in the `PoolError` that damaged files raise."""
    number = 0
    try:
        features = datasets.Features(cast("dict[str, Any]", _undecoded(cast(object, dataset.features))))
        has_json = bool(require_decoding(features))
        for table in cast("Iterable[Any]", dataset.with_format("arrow").iter(batch_size=_BATCH)):
            table.validate(full=True)
            for row in _rows_of_batch(table, number):
                number = row.number
                if has_json and row.data is not None:
                    row = raw_row(number, cast(object, features.decode_example(row.data)))
                yield row
    except _DATASET_ERRORS as error:
        raise PoolError(
            f"{label}: cannot be read after row {number}: {one_line(str(error))}\n"
            "Its files are damaged; write the dataset again."
        ) from error


def _rows_of_batch(batch: Any, before: int) -> Iterator[RawRow]:
    """The rows of an Arrow batch or table, numbered from `before` + 1; one that is too long is not made."""
    step = 1 if _size(batch) > streams.ROW_BYTES else max(1, batch.num_rows)
    for start in range(0, batch.num_rows, step):
        part, first = batch.slice(start, step), before + start + 1
        if step == 1 and _size(part) > streams.ROW_BYTES:
            yield RawRow(first, None, "", too_long("it"))
        else:
            yield from map(raw_row, count(first), part.to_pylist())


def _size(batch: Any) -> int:
    """Bytes of an Arrow batch; those of its whole buffers for newer types, of which Arrow cannot tell a part's size."""
    try:
        return int(batch.nbytes)
    except cast("type[Exception]", pa.ArrowException):
        return int(batch.get_total_buffer_size())


def _undecoded(feature: object) -> object:
    """A feature, and those inside it, that leave their values as they are stored, but for JSON, which is parsed."""
    if isinstance(feature, Mapping):
        return {name: _undecoded(inner) for name, inner in cast("Mapping[str, object]", feature).items()}
    if isinstance(feature, list | tuple):
        return [_undecoded(inner) for inner in cast("list[object]", feature)]
    if isinstance(feature, datasets.List | datasets.LargeList):
        return dataclasses.replace(feature, feature=_undecoded(feature.feature))
    if isinstance(feature, _JSON) or not dataclasses.is_dataclass(feature) or isinstance(feature, type):
        return feature
    decodes = any(field.name == "decode" for field in dataclasses.fields(feature))
    return dataclasses.replace(feature, decode=False) if decodes else feature
