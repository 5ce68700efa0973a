"""Options of reading that hold for one input among several."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import ConfigDict


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What is known of one input; it takes precedence over what is said of all."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    format: str | None = None  # name of its rows' format
    columns: Mapping[str, str] = field(default_factory=dict[str, str])  # role (a format's field, id, source) -> column
