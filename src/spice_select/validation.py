"""Options of any schema, checked: what is wrong with a key, and which key an unknown one was meant to be."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from spice_select.errors import ConfigError, shown

Schema = TypeVar("Schema", bound=BaseModel)


def validated(schema: type[Schema], values: Mapping[str, Any], origin: str) -> Schema:
    """`values` over the defaults of `schema`.

    Raises `ConfigError`, which names the key, what is wrong with it, and the nearest valid key for an unknown one.
    """
    refuse_unknown(schema, values, origin)
    try:
        return schema(**values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # two options that do not go together
            raise ConfigError(f"{origin}: {message}.") from None
        raise ConfigError(f"{origin}: {first['loc'][0]}: {message} (got {shown(first['input'])}).") from None


def refuse_unknown(schema: type[BaseModel], values: Mapping[str, Any], origin: str) -> None:
    """Raise `ConfigError` for a key that is no field of `schema`; it names the nearest one."""
    for key in values:
        if key not in schema.model_fields:
            close = difflib.get_close_matches(str(key), schema.model_fields, n=1, cutoff=0.4)
            hint = f"did you mean '{close[0]}'?" if close else f"valid keys: {', '.join(schema.model_fields)}"
            raise ConfigError(f"{origin}: unknown key '{key}'; {hint}.")
