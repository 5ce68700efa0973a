"""Rows as JSON text, from which the very same values come back.

A value that JSON lacks is an object with the one key `_TAG`, whose value is the name of its type and what it is made
of. A value of a type not listed here stays in memory, and the text holds its number. So does a whole row of which JSON
would give back something else: tuples, numpy's numbers, keys that are no text.
"""

import base64
import json
from collections.abc import Callable, Mapping
from datetime import date, datetime, tzinfo
from decimal import Decimal
from typing import Any, cast

UTF8 = ("utf-8", "surrogatepass")
"""How text from rows becomes bytes: rows in memory may hold halves of surrogate pairs."""

_TAG = "\ue000type"
_PARTS: Mapping[type, Callable[[Any], list[Any]]] = {
    bytes: lambda value: [base64.b64encode(value).decode("ascii")],
    Decimal: lambda value: [str(value)],
    date: lambda value: [value.isoformat()],
    datetime: lambda value: [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, value.tzinfo],
}


class RowCodec:
    """Turns rows into bytes and back; it must live as long as the bytes, as it holds the values that stay."""

    def __init__(self) -> None:
        self._objects: list[object] = []
        self._numbers: dict[int, int] = {}  # id of an object -> its place; the list keeps the id from being reused
        self._builders: Mapping[str, Callable[..., Any]] = {
            "bytes": base64.b64decode,
            "Decimal": Decimal,
            "date": date.fromisoformat,
            "datetime": _datetime,
            "object": self._objects.__getitem__,
        }

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """The row as bytes."""
        value = row if _is_exact(row) else self._stored(row)
        return json.dumps(value, ensure_ascii=False, default=self._tagged).encode(*UTF8)

    def decode(self, data: bytes) -> dict[str, Any]:
        """The row that `encode` received: equal, of the same types."""
        return cast("dict[str, Any]", json.loads(data.decode(*UTF8), object_hook=self._untagged))

    def _tagged(self, value: object) -> object:
        parts = _PARTS.get(type(value))
        return self._stored(value) if parts is None else {_TAG: [type(value).__name__, *parts(value)]}

    def _stored(self, value: object) -> object:
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return {_TAG: ["object", number]}

    def _untagged(self, fields: dict[str, Any]) -> Any:
        if _TAG not in fields:
            return fields
        name, *parts = fields[_TAG]
        return self._builders[name](*parts)


def _datetime(text: str, fold: int, zone: tzinfo | None) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def _is_exact(value: object) -> bool:
    """Whether JSON, with tags, gives back the same value: no subclasses of its types, and keys that are text."""
    kind = type(value)
    if kind is dict:
        fields = cast("dict[object, object]", value).items()
        return all(type(key) is str and key != _TAG and _is_exact(item) for key, item in fields)
    if kind is list:
        return all(map(_is_exact, cast("list[object]", value)))
    return kind in (str, int, float, bool) or not isinstance(value, str | int | float | dict | list | tuple)
