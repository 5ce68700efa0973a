"""One row seen through the roles of its format's fields, with the leniency that real files need.

Null and NaN are absence. Numbers and truth values where text is wanted are their JSON text. JSON text of a list of
messages is that list.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from spice_select.pool.messages import parse_tools
from spice_select.pool.problems import RowProblem

ALIASES: Mapping[str, tuple[str, ...]] = {
    "system": ("system", "system_prompt", "systemInstruction", "system_instruction"),
    "tools": ("tools", "functions"),
}
"""Columns that play a role without being mapped to it, in the order in which they are tried."""

MEDIA = ("images", "image", "videos", "video", "audios", "audio")
TEMPLATE_OPTIONS = "chat_template_kwargs"


def is_absent(value: object) -> bool:
    """Whether a value says that there is none: null, or the NaN that tables put in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_empty(value: object) -> bool:
    """Whether a value is absent, blank text, or an empty list or object."""
    return is_absent(value) or (isinstance(value, str) and not value.strip()) or value in ([], {})


@dataclass(frozen=True, slots=True)
class Fields:
    """One row; `columns` maps roles to columns, `required` and `roles` are those of its format.

    `filled_nulls` says whether nulls inside objects are Arrow's.
    """

    row: Mapping[str, Any]
    columns: Mapping[str, str]
    required: tuple[str, ...]
    roles: tuple[str, ...]
    filled_nulls: bool

    def column(self, role: str) -> str:
        """The column of the row that plays `role`."""
        if role in self.columns:
            return self.columns[role]
        names = ALIASES.get(role)
        if names is None:
            return role
        for name in names:
            if name in self.row and not is_empty(self.row[name]):
                return name
        return names[0]

    def value(self, role: str) -> Any:
        """The row's value for `role`; None where the row lacks it or the format does not use it."""
        value = self.row.get(self.column(role)) if role in self.roles else None
        return None if is_absent(value) else value

    def text(self, role: str) -> str:
        """The text of a required field."""
        value = self.value(role)
        if isinstance(value, bool | int | float):
            return json.dumps(value)
        if not isinstance(value, str):
            raise RowProblem(f"field '{self.column(role)}' is {type(value).__name__}, not text")
        return value

    def optional_text(self, role: str) -> str:
        """The text of a field that may be missing, null or blank, all of which give the empty string."""
        text = "" if self.value(role) is None else self.text(role)
        return text if text.strip() else ""

    def listed(self, role: str) -> Any:
        """The value of a field that holds a list, or JSON text of one; None where it is absent or empty."""
        value = self.value(role)
        if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return value
        return None if is_empty(value) else value

    def messages_in(self, role: str) -> list[Any] | None:
        """The list of messages in a field that may as well hold plain text, which gives None."""
        value = self.listed(role)
        if isinstance(value, list) and all(isinstance(item, Mapping) for item in cast("list[object]", value)):
            return cast("list[Any]", value)
        return None

    def tools(self) -> list[dict[str, Any]] | None:
        """The tools on offer."""
        return parse_tools(self.value("tools"), self.column("tools"), self.filled_nulls)

    def template_options(self) -> dict[str, Any]:
        """The row's variables for the chat template."""
        found = self.listed(TEMPLATE_OPTIONS)
        if found is None:
            return {}
        if not isinstance(found, Mapping):
            raise RowProblem(f"field '{TEMPLATE_OPTIONS}' is {type(found).__name__}, not an object")
        return {key: value for key, value in cast("Mapping[str, Any]", found).items() if value is not None}

    def refuse_media(self) -> None:
        """Raise `RowProblem` if the row has images, videos or audio."""
        for name in MEDIA:
            if not is_empty(self.row.get(name)) and name not in self.columns.values():
                raise RowProblem(f"field '{name}' holds media, which cannot be used (text rows only)")
