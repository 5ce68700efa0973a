"""Lists of chat messages as found in data, checked and brought to one form: role, text content, kept extras.

OpenAI text parts are joined to one string, keys whose value is null are dropped (Parquet fills them in), tool-call
arguments given as JSON text become objects, `function` becomes the role `tool`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from spice_select.pool.problems import TOO_DEEP, RowProblem, may_be_too_deep, one_line, too_deep

Message = dict[str, Any]

_OPENAI_ROLES = {role: role for role in ("system", "developer", "user", "assistant", "tool")} | {"function": "tool"}
_ASSISTANTS = dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model"), "assistant")
_SHAREGPT_ROLES = _OPENAI_ROLES | {"human": "user"} | _ASSISTANTS | {"observation": "tool"}


@dataclass(frozen=True, slots=True)
class Conversation:
    """One row as chat messages."""

    messages: list[Message]  # with `role`, `content` (text; absent only beside tool calls) and kept extras
    tools: list[dict[str, Any]] | None = None  # JSON schemas of the tools on offer
    untrained: frozenset[int] = frozenset()  # indices of assistant messages that are context, not targets

    def trained_turns(self) -> list[int]:
        """Indices of the assistant messages to learn."""
        return [i for i, m in enumerate(self.messages) if m["role"] == "assistant" and i not in self.untrained]


def openai_messages(value: object, field: str) -> list[Message]:
    """Messages with `role` and `content`. Any other value is a `RowProblem` that names field and message (from 1)."""
    return [_openai_message(_as_message(item, at), at, _OPENAI_ROLES) for item, at in _items(value, field)]


def sharegpt_messages(value: object, field: str) -> list[Message]:
    """Messages with `from` and `value`, or with `role` and `content`, under ShareGPT's names of the roles.

    Any other value is a `RowProblem`, as in `openai_messages`.
    """
    return [_sharegpt_message(_as_message(item, at), at) for item, at in _items(value, field)]


def parse_tools(value: object, field: str) -> list[dict[str, Any]] | None:
    """The tool schemas of a row: a list of objects, or JSON text of one; nothing, or an empty list, is None."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return _objects(_from_json_text(value, field), f"field '{field}' is not a list of tool objects") or None


def check_conversation(conversation: Conversation, prompt: str, response: str) -> None:
    """Raise `RowProblem` if a conversation holds no user text, no assistant message to learn, or an empty one.

    `prompt` and `response` are the fields that should hold the user's and the assistant's text, for the reason.
    """
    messages = conversation.messages
    if not any(m["role"] == "user" and m["content"].strip() for m in messages):
        raise RowProblem(f"field '{prompt}' holds no user text")
    if not conversation.trained_turns():
        raise RowProblem(f"field '{response}' holds no response to learn (no assistant message)")
    for number, message in enumerate(messages, start=1):
        empty = not message.get("content", "").strip() and "tool_calls" not in message
        if message["role"] == "assistant" and empty:
            place = f", message {number}," if len(messages) > 2 else ""
            raise RowProblem(f"field '{response}'{place} holds no response (it is empty)")


def _items(value: object, field: str) -> list[tuple[object, str]]:
    """The messages of a list, not checked yet, each with its place in words."""
    items = _from_json_text(value, field)
    if not isinstance(items, list):
        raise RowProblem(f"field '{field}' is {type(items).__name__}, not a list of messages")
    if not items:
        raise RowProblem(f"field '{field}' is an empty list")
    return [(item, f"field '{field}', message {n}") for n, item in enumerate(cast("list[object]", items), start=1)]


def _from_json_text(value: object, field: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        found: object = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowProblem(f"field '{field}' is text but not JSON ({one_line(str(error), 80)})") from error
    if may_be_too_deep(value) and too_deep(found):
        raise RowProblem(f"field '{field}' {TOO_DEEP}")
    return found


def _as_message(item: object, place: str) -> Message:
    if not isinstance(item, Mapping):
        raise RowProblem(f"{place} is {type(item).__name__}, not an object")
    return {key: value for key, value in cast("Mapping[str, Any]", item).items() if value is not None}


def _sharegpt_message(message: Message, place: str) -> Message:
    if "from" not in message:
        return _openai_message(message, place, _SHAREGPT_ROLES)
    name = message.pop("from")
    if "value" in message:
        message["content"] = message.pop("value")
    if name == "function_call":
        calls = _function_calls(message.get("content"), place)
        return {"role": "assistant", "tool_calls": _tool_calls(calls, place)}
    message["role"] = name
    return _openai_message(message, place, _SHAREGPT_ROLES, ("from", "value"))


def _openai_message(
    message: Message, place: str, roles: Mapping[str, str], keys: tuple[str, str] = ("role", "content")
) -> Message:
    """The message in its final form: known role, content as text, tool calls as objects.

    `keys` are the names of its role and content in the data, for the reason.
    """
    name = message.get("role")
    if not isinstance(name, str):
        raise RowProblem(f"{place} has no '{keys[0]}'")
    if name not in roles:
        raise RowProblem(f"{place} has the unknown role '{one_line(name, 40)}' (known: {', '.join(roles)})")
    out = {**message, "role": roles[name]}
    if out["role"] == "assistant" and out.get("tool_calls"):
        out["tool_calls"] = _tool_calls(out["tool_calls"], place)
    else:
        out.pop("tool_calls", None)
    content = _text(out.get("content"), f"{place}, '{keys[1]}'")
    if content is not None:
        out["content"] = content
    elif "tool_calls" not in out:
        raise RowProblem(f"{place} has no '{keys[1]}'")
    return out


def _text(content: object, place: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowProblem(f"{place} is {type(content).__name__}, not text")
    parts: list[str] = []
    for part in cast("list[object]", content):
        text = cast("Mapping[str, object]", part).get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            raise RowProblem(f"{place} has a part that is not text (images and audio cannot be used)")
        parts.append(text)
    return "".join(parts)


def _tool_calls(value: object, place: str) -> list[dict[str, Any]]:
    calls = _objects(value, f"{place}, 'tool_calls' is not a list of objects")
    for call in calls:
        function = call.get("function", call)
        if not isinstance(function, dict) or "name" not in function:
            raise RowProblem(f"{place}, 'tool_calls' has a call without a name")
        _parse_arguments(cast("dict[str, Any]", function))
    return calls


def _parse_arguments(function: dict[str, Any]) -> None:
    """OpenAI writes arguments as JSON text; chat templates expect the object and would quote the text twice."""
    try:
        arguments = json.loads(function.get("arguments", ""))
    except (TypeError, ValueError, RecursionError):
        return
    if isinstance(arguments, dict):
        function["arguments"] = arguments


def _function_calls(content: object, place: str) -> list[dict[str, Any]]:
    """ShareGPT's `function_call` turn, JSON of one call or several, as OpenAI tool calls."""
    if not isinstance(content, str):
        raise RowProblem(f"{place}, 'value' is not the JSON text of a function call")
    parsed = _from_json_text(content, f"{place}, value")
    calls = cast("list[object]", parsed if isinstance(parsed, list) else [parsed])
    if not all(isinstance(call, dict) and "name" in call for call in calls):
        raise RowProblem(f"{place}, 'value' is not a function call with a name")
    return [{"type": "function", "function": call} for call in calls]


def _objects(value: object, problem: str) -> list[dict[str, Any]]:
    """A list of objects without null-valued keys, as a copy; anything else is a `RowProblem`."""
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in cast("list[object]", value)):
        raise RowProblem(problem)
    return cast("list[dict[str, Any]]", _without_nulls(cast("object", value)))


def _without_nulls(value: object) -> object:
    """A copy without null-valued keys: Parquet gives every object in a column the keys of all of them."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return {key: _without_nulls(item) for key, item in items if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in cast("list[object]", value)]
    return value
