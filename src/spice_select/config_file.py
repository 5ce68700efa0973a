"""A run as a YAML file: what `--config` reads, and what each run writes beside its subset."""

from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, Field

from spice_select.config import RunConfig
from spice_select.errors import ConfigError

_YAML_ERRORS = (
    yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
"""PyYAML's own, and what its constructors let through: of 2001-99-99, `!!bool x`, a number of 5,000 digits."""


_MOST_VALUES = 100_000


class RunFile(BaseModel):
    """A YAML file of a run: the options of `RunConfig`, and optionally the pools and the output directory."""

    pools: list[str] = Field(default_factory=list)
    output: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


def load_yaml(path: Path) -> RunFile:
    """Read a run's YAML; relative pools stay relative to the current directory, as on the command line.

    Raises:
        ConfigError: missing file, broken YAML, or not a mapping.

    """
    content = read_yaml(path)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold 'key: value' lines; found {type(content).__name__}.")
    values: dict[str, Any] = {str(key): value for key, value in content.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    pools = values.pop("pools", [])
    output = values.pop("output", None)
    if isinstance(pools, str):
        pools = [pools]
    if not isinstance(pools, list) or not all(isinstance(p, str) for p in pools):  # pyright: ignore[reportUnknownVariableType]
        raise ConfigError(f"{path}: pools: must be a list of files or dataset ids.")
    if output is not None and not isinstance(output, str):
        raise ConfigError(f"{path}: output: must be a directory name.")
    names = [*cast("list[str]", pools), output or ""]
    if any("\0" in name for name in names):
        raise ConfigError(f"{path}: a name in pools or output holds a null character; no file has such a name.")
    return RunFile(pools=pools, output=output, options=values)  # pyright: ignore[reportUnknownArgumentType]


def read_yaml(path: Path) -> object:
    """What a YAML file holds, as plain values: no tag of it can make anything else.

    Raises:
        ConfigError: missing file, no UTF-8, or broken YAML.

    """
    try:
        content: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a YAML file.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; name a YAML file.") from None
    except _YAML_ERRORS as error:
        line = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"{path}: is not valid YAML: {line}") from None
    if _is_beyond(content, _MOST_VALUES):
        raise ConfigError(f"{path}: holds more than {_MOST_VALUES:,} values; do its anchors repeat each other?")
    return content


def _is_beyond(content: object, most: int) -> bool:
    """Whether a walk over all values would take more than `most` steps: aliases make small files endless."""
    left = [content]
    while left and most:
        value, most = left.pop(), most - 1
        if isinstance(value, dict):
            left += cast("dict[object, object]", value).values()
        elif isinstance(value, list):
            left += cast("list[object]", value)
    return bool(left)


def dump_yaml(config: RunConfig, pools: list[str], output: str | None) -> str:
    """The resolved run as YAML that `--config` replays. The preset is spelled out in its values."""
    values = config.model_dump(exclude={"preset"})
    return yaml.dump({"pools": pools, "output": output, **values}, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """PyYAML folds Unicode's own line breaks into spaces unless they stand in double quotes."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    quoted = '"' if any(character in text for character in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=quoted)


_Dumper.add_representer(str, _represent_text)
