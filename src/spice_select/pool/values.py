"""Rows as text, from which the very same values come back.

A row of JSON's own types is JSON. Anything else is an array whose first element says what the rest is, and so is every
container in it: ["dict", [key, value], ...], ["date", "2026-01-31"]. As rows are objects, the two are told apart by
the first character. A value of no type listed here stays in memory as the object it is; the text holds its number.
"""

import base64
import json
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast

_PLAIN = frozenset((str, int, float, bool, type(None)))


class Values:
    """Turns rows into bytes and back; it must live as long as the bytes, whose odd objects it holds."""

    def __init__(self) -> None:
        self._objects: list[object] = []
        self._numbers: dict[int, int] = {}  # id of an object -> its place; the list keeps the id from being given anew

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """The row as bytes."""
        try:
            text = json.dumps(row if _is_json(row) else self._tagged(row), ensure_ascii=False)
        except RecursionError:  # too deep for JSON's encoder
            text = json.dumps(self._object(row))
        return text.encode("utf-8", "surrogatepass")

    def decode(self, data: bytes) -> dict[str, Any]:
        """What `encode` was given: equal, of the same types."""
        value = json.loads(data.decode("utf-8", "surrogatepass"))
        return cast("dict[str, Any]", value if isinstance(value, dict) else self._untagged(value))

    def _tagged(self, value: object) -> object:
        """`value` in JSON's types. Subclasses are no plain values: their type would be lost."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if isinstance(value, dict) and kind is dict:
            items = cast("dict[object, object]", value).items()
            return ["dict", *([self._tagged(key), self._tagged(item)] for key, item in items)]
        if isinstance(value, list | tuple) and kind in (list, tuple):
            return [kind.__name__, *(self._tagged(item) for item in cast("list[object]", value))]
        return self._of_parquet(cast(object, value))

    def _of_parquet(self, value: object) -> object:
        """Values that Parquet and datasets hold and JSON does not."""
        kind = type(value)
        if isinstance(value, datetime | time) and kind in (datetime, time):
            naive = value.replace(tzinfo=None, fold=0)
            return [kind.__name__, naive.isoformat(), value.fold, self._tagged(value.tzinfo)]
        if isinstance(value, date) and kind is date:
            return ["date", value.isoformat()]
        if isinstance(value, timedelta) and kind is timedelta:
            return ["timedelta", value.days, value.seconds, value.microseconds]
        if isinstance(value, Decimal) and kind is Decimal:
            return ["Decimal", str(value)]
        if isinstance(value, bytes) and kind is bytes:
            return ["bytes", base64.b64encode(value).decode("ascii")]
        return self._object(value)

    def _object(self, value: object) -> list[object]:
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return ["object", number]

    def _untagged(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        name, *rest = cast("list[Any]", value)
        if name == "object":
            return self._objects[rest[0]]
        if name == "dict":
            return {self._untagged(key): self._untagged(item) for key, item in rest}
        return _BUILD[name](*(self._untagged(item) for item in rest))


def _is_json(row: Mapping[str, Any]) -> bool:
    """Whether JSON gives back what it is given: exact types only, names as keys. Without recursion: rows are deep."""
    waiting: list[object] = [row]
    while waiting:
        value = waiting.pop()
        kind = type(value)
        if kind is dict:
            fields = cast("dict[object, object]", value)
            if any(type(key) is not str for key in fields):
                return False
            waiting.extend(fields.values())
        elif kind is list:
            waiting.extend(cast("list[object]", value))
        elif kind not in _PLAIN:
            return False
    return True


def _datetime(text: str, fold: int, zone: Any) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def _time(text: str, fold: int, zone: Any) -> time:
    return time.fromisoformat(text).replace(tzinfo=zone, fold=fold)


_BUILD: Mapping[str, Callable[..., Any]] = {
    "list": lambda *items: list(items),
    "tuple": lambda *items: items,
    "datetime": _datetime,
    "time": _time,
    "date": date.fromisoformat,
    "timedelta": timedelta,
    "Decimal": Decimal,
    "bytes": base64.b64decode,
}
