"""How deep a row's values may lie in each other: what walks over rows by recursion must not run out of stack."""

from collections.abc import Mapping
from typing import cast

DEEPEST = 100
"""Most levels of lists and objects inside each other in a row; tool schemas have about ten."""

TOO_DEEP = f"is nested deeper than {DEEPEST} levels"


def too_deep(value: object) -> bool:
    """Whether lists and mappings lie more than `DEEPEST` levels deep, or hold themselves."""
    level: list[object] = [value]
    for _ in range(DEEPEST + 1):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return False
    return True


def may_be_too_deep(text: str) -> bool:
    """Whether JSON text opens enough brackets to be `too_deep`; quick, and right when it says no."""
    return text.count("[") + text.count("{") > DEEPEST


def _inside(value: object) -> list[object]:
    """The containers in a container."""
    if isinstance(value, Mapping):
        inner = list(cast("Mapping[object, object]", value).values())
    elif isinstance(value, list | tuple):
        inner = list(cast("list[object]", value))
    else:
        return []
    return [item for item in inner if isinstance(item, Mapping | list | tuple)]
