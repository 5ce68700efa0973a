"""How two records of settings differ, for the message that refuses to go on with the wrong one."""

import json
from collections.abc import Mapping
from typing import Any

_SHOWN = 60  # characters of a value


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first four settings that differ, as `key (was 1, is 2)`; empty where none does."""
    keys = [key for key in {**saved, **wanted} if saved.get(key) != wanted.get(key)]
    return "; ".join(f"{key} (was {_short(saved.get(key))}, is {_short(wanted.get(key))})" for key in keys[:4])


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
