"""Objects as Arrow and JSON give them, without the keys whose null says nothing."""

from collections.abc import Mapping
from typing import cast

_EXPLICIT = ("arguments", "parameters", "input_schema")
"""Objects of a call or a tool in which a null that somebody wrote is a value."""


def as_mapping(value: object) -> object:
    """The (key, value) tuples that Arrow gives for a map as a mapping; any other value as it is."""
    if isinstance(value, list) and value:
        pairs = cast("list[object]", value)
        if all(isinstance(pair, tuple) for pair in pairs):
            return dict(cast("list[tuple[str, object]]", pairs))
    return cast(object, value)


def without_nulls(value: object, filled: bool) -> object:
    """A copy without null-valued keys; those among arguments and parameters stay unless Arrow may have `filled` them.

    Arrow gives every object in a column the keys of all of them.
    """
    value = as_mapping(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return {
            key: item if key in _EXPLICIT and not filled else without_nulls(item, filled)
            for key, item in items
            if item is not None
        }
    if isinstance(value, list):
        return [without_nulls(item, filled) for item in cast("list[object]", value)]
    return value
