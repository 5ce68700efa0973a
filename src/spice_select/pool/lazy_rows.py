"""A sequence whose items are made when they are read, beside the lengths of all."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

T_co = TypeVar("T_co", covariant=True)

_BLOCK = 1024  # items made together when all are passed over


class Rows(Sequence[T_co]):
    """An item for each of n rows, made anew at each access; a slice is a list.

    Attributes:
        tokens: [n] int32, of each row.
        trained_tokens: [n] int32, how many of them the loss is taken over.

    """

    def __init__(
        self, tokens: NDArray[np.int32], trained_tokens: NDArray[np.int32], make: Callable[[int, int], list[T_co]]
    ) -> None:
        """`make(start, stop)` gives the items of rows [start, stop)."""
        self.tokens = tokens
        self.trained_tokens = trained_tokens
        self._make = make

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> list[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | list[T_co]:
        places = range(len(self))[index]
        if isinstance(places, int):
            return self._make(places, places + 1)[0]
        if places.step == 1:
            return self._make(places.start, max(places.start, places.stop))
        return [self[place] for place in places]

    def __iter__(self) -> Iterator[T_co]:
        for start in range(0, len(self), _BLOCK):
            yield from self._make(start, min(start + _BLOCK, len(self)))
