"""The rows of a dataset of the library `datasets`: as stored, with JSON columns parsed, and without opening any file.

The library would decode pictures, sound, documents and the like, wherever in a row they lie: to decode one is to open
whatever file the row names.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import datasets
from datasets.features.features import require_decoding  # pyright: ignore[reportUnknownVariableType]

from spice_select.pool.nesting import TOO_DEEP, too_deep
from spice_select.pool.readers import BATCH, RawRow, rows_of_batch


def dataset_rows(dataset: datasets.Dataset) -> Iterator[RawRow]:
    """All rows, numbered from 1; raises what `datasets` and Arrow raise where its files are damaged."""
    features = datasets.Features(cast("dict[str, Any]", _at_rest(cast(object, dataset.features))))
    tables = cast("Iterable[Any]", dataset.with_format("arrow").iter(batch_size=BATCH))
    has_json, number = bool(require_decoding(features)), 0
    for table in tables:
        for row in rows_of_batch(table, number):
            number = row.number
            if row.data is None or not has_json:
                yield row
                continue
            data = cast("dict[str, Any]", features.decode_example(dict(row.data)))
            yield RawRow(number, None, "", TOO_DEEP) if too_deep(data) else RawRow(number, data)


def _at_rest(feature: object) -> object:
    """A feature, and those inside it, that leave their values as they are stored; JSON is text, and parsed."""
    if isinstance(feature, Mapping):
        return {name: _at_rest(inner) for name, inner in cast("Mapping[str, object]", feature).items()}
    if isinstance(feature, list | tuple):
        return [_at_rest(inner) for inner in cast("list[object]", feature)]
    if isinstance(feature, datasets.List | datasets.LargeList):
        return dataclasses.replace(feature, feature=_at_rest(feature.feature))
    if isinstance(feature, datasets.Json) or not dataclasses.is_dataclass(feature) or isinstance(feature, type):
        return feature
    decodes = any(field.name == "decode" for field in dataclasses.fields(feature))
    return dataclasses.replace(feature, decode=False) if decodes else feature
