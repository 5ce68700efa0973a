"""Rows as bytes, from which the very same values come back.

`marshal` writes the plain values, exact types alone. Dates, times and decimals are written as the arguments of their
constructors. A value of any other type stays in memory, and the bytes hold its number. A tuple that starts with an
ellipsis stands for both; a row's own ellipsis is a value that stays in memory.
"""

import marshal
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any, cast

UTF8 = ("utf-8", "surrogatepass")
"""How text from rows becomes bytes: rows in memory may hold halves of surrogate pairs."""

_PLAIN = frozenset((str, int, float, bool, bytes, NoneType))
_SEQUENCES = frozenset[Any]((list, tuple))
_BUILT = frozenset((date, datetime, time, timedelta, Decimal))


class RowCodec:
    """Turns rows into bytes and back; it must live as long as the bytes, as it holds the values that stay in memory."""

    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}  # id of an object -> its place; the list keeps the id from being reused

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """The row as bytes."""
        return marshal.dumps(self._packed(row))

    def decode(self, data: bytes) -> dict[str, Any]:
        """The row that `encode` received: equal, of the same types."""
        return self._unpacked(marshal.loads(data))  # noqa: S302 - this process wrote the bytes

    def _packed(self, value: Any) -> Any:
        kind = cast(Any, type(value))
        if kind in _PLAIN:
            return value
        if kind in _SEQUENCES:
            return kind(map(self._packed, value))
        if kind is dict:
            return {self._packed(key): self._packed(item) for key, item in value.items()}
        if kind in _BUILT:  # protocol 4 keeps the `fold` of a time
            return ..., self._number(kind), self._packed(value.__reduce_ex__(4)[1])
        return ..., self._number(value)

    def _number(self, value: object) -> int:
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return number

    def _unpacked(self, value: Any) -> Any:
        kind = cast(Any, type(value))
        if kind in _SEQUENCES and value[:1] == (...,):
            found = self._objects[value[1]]
            return found(*self._unpacked(value[2])) if len(value) > 2 else found
        if kind in _SEQUENCES:
            return kind(map(self._unpacked, value))
        if kind is dict:
            return {self._unpacked(key): self._unpacked(item) for key, item in value.items()}
        return value
