"""A run as a YAML file: what `--config` reads, and what each run writes beside its subset."""

from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml

from spice_select.config import RunConfig
from spice_select.errors import ConfigError

_YAML_ERRORS = (
    yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
"""PyYAML's own, and what its constructors let through: of 2001-99-99, `!!bool x`, a number of 5,000 digits."""

_MOST_VALUES = 100_000


class RunFile(NamedTuple):
    """A YAML file of a run: the options of `RunConfig`, and optionally the pools and the output directory."""

    pools: list[str]
    output: str | None
    options: dict[str, Any]


def load_yaml(path: Path) -> RunFile:
    """Read a run's YAML; relative pools stay relative to the current directory, as on the command line.

    Raises `ConfigError` if the file is missing, is no YAML, or holds no mapping.
    """
    content: Any = read_yaml(path)
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path}: must hold 'key: value' lines; found {type(content).__name__}.")
    options = {str(key): value for key, value in cast("dict[Any, Any]", content or {}).items()}
    pools, output = options.pop("pools", []), options.pop("output", None)
    pools = [pools] if isinstance(pools, str) else pools
    if not isinstance(pools, list) or not all(_is_name(pool) for pool in cast("list[Any]", pools)):
        raise ConfigError(f"{path}: pools: must be a list of files or dataset ids, without null characters.")
    if output is not None and not _is_name(output):
        raise ConfigError(f"{path}: output: must be a directory name without null characters.")
    return RunFile(cast("list[str]", pools), output, options)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def read_yaml(path: Path) -> object:
    """What a YAML file holds, as plain values; its tags construct no other objects.

    Raises `ConfigError` if the file is missing, is not UTF-8 or no YAML, or has aliases that multiply without end.
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
    left, visited = [content], 0
    while left:
        value, visited = left.pop(), visited + 1
        if visited > _MOST_VALUES:  # aliases make small files endless
            raise ConfigError(f"{path}: holds more than {_MOST_VALUES:,} values; do its anchors repeat each other?")
        if isinstance(value, dict):
            left += cast("dict[object, object]", value).values()
        elif isinstance(value, list):
            left += cast("list[object]", value)
    return content


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
