"""Rows as JSON text, from which the very same values come back.

A row of JSON's own types is its JSON. In any other row each container, and each value that JSON lacks, is an array
whose first element names its type: ["dict", ["list", key, value], ...], ["date", "2026-01-31"]. As rows are objects,
the first character tells the two apart. A value of any further type stays in memory; the text holds its number.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, tzinfo
from decimal import Decimal
from typing import Any, cast

UTF8 = ("utf-8", "surrogatepass")
"""How text from rows becomes bytes: rows in memory may hold halves of surrogate pairs."""

_PLAIN = frozenset((str, int, float, bool, type(None)))
_PARTS: Mapping[type, Callable[[Any], Iterable[Any]]] = {
    dict: lambda value: map(list, value.items()),
    list: lambda value: value,
    tuple: lambda value: value,
    bytes: lambda value: [base64.b64encode(value).decode("ascii")],
    Decimal: lambda value: [str(value)],
    date: lambda value: [value.isoformat()],
    datetime: lambda value: [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, value.tzinfo],
}


def _datetime(text: str, fold: int, zone: tzinfo | None) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


_BUILDERS: Mapping[str, Callable[..., Any]] = {
    "dict": lambda *items: dict(cast("tuple[tuple[Any, Any]]", items)),
    "list": lambda *items: list(items),
    "tuple": lambda *items: items,
    "bytes": base64.b64decode,
    "Decimal": Decimal,
    "date": date.fromisoformat,
    "datetime": _datetime,
}


class RowCodec:
    """Turns rows into bytes and back; it must live as long as the bytes, as it holds the values that stay."""

    def __init__(self) -> None:
        self._objects: list[object] = []
        self._numbers: dict[int, int] = {}  # id of an object -> its place; the list keeps the id from being reused

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """The row as bytes."""
        return json.dumps(row if _is_json(row) else self._tagged(row), ensure_ascii=False).encode(*UTF8)

    def decode(self, data: bytes) -> dict[str, Any]:
        """The row that `encode` was given: equal, of the same types."""
        value = json.loads(data.decode(*UTF8))
        return cast("dict[str, Any]", value if isinstance(value, dict) else self._untagged(value))

    def _tagged(self, value: object) -> object:
        """`value` in JSON's types. Subclasses are further types: theirs would be lost."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind in _PARTS:
            return [kind.__name__, *map(self._tagged, _PARTS[kind](value))]
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return ["object", number]

    def _untagged(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        name, *parts = cast("list[Any]", value)
        return self._objects[parts[0]] if name == "object" else _BUILDERS[name](*map(self._untagged, parts))


def _is_json(value: object) -> bool:
    """Whether JSON gives back the same value: exact types only, and text as keys."""
    kind = type(value)
    if kind is dict:
        return all(type(key) is str and _is_json(item) for key, item in cast("dict[object, object]", value).items())
    return all(map(_is_json, cast("list[object]", value))) if kind is list else kind in _PLAIN
