"""Lists of chat messages as found in data, checked and brought to one form: role, text content, kept extras.

OpenAI text parts are joined to one string, Anthropic's parts become tool calls and their results (`parts`), keys whose
value is null are dropped, tool-call arguments given as JSON text become objects, `function` becomes the role `tool`.
A null inside the arguments of a call or the parameters of a tool is kept, unless Arrow may have filled it in.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from spice_select.pool.nulls import as_mapping, without_nulls
from spice_select.pool.parts import has_tool_parts, openai_tools, without_tool_parts
from spice_select.pool.problems import TOO_DEEP, MarkedRow, RowProblem, kind_of, may_be_too_deep, one_line, too_deep

Message = dict[str, Any]
OTHER_FIELDS = "other_fields"
"""Field of a message in `train.parquet`: the JSON text of those of its fields that are no text."""

_ROLES = {
    **{role: role for role in ("system", "developer", "user", "assistant", "tool")},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "bot", "ai"), "assistant"),
    **dict.fromkeys(("function", "observation", "function_response", "tool_response", "ipython"), "tool"),
}
_CALL_ROLE = "function_call"
_TEXT_PARTS = ("text", "input_text", "output_text", None)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One row as chat messages."""

    messages: list[Message]  # with `role`, `content` (text; absent only beside tool calls) and kept extras
    tools: list[dict[str, Any]] | None = None  # JSON schemas of the tools on offer
    untrained: frozenset[int] = frozenset()  # indices of assistant messages that are context, not targets
    template_options: Mapping[str, Any] = field(default_factory=dict[str, Any])  # the row's variables for the template
    marked: frozenset[int] = frozenset()  # the untrained ones that the data marks; the others come before the answer

    def trained_turns(self) -> list[int]:
        """Indices of the assistant messages to learn."""
        return [i for i, m in enumerate(self.messages) if m["role"] == "assistant" and i not in self.untrained]


def chat_messages(value: object, field: str, filled_nulls: bool = False) -> list[Message]:
    """Messages with `role` and `content`, or ShareGPT's `from` and `value`, under any usual name of a role.

    Also a list of texts, by user and assistant in turn; lists of roles and contents in place of a list of messages; and
    the JSON text of either. Any other value is a `RowProblem` that names field and message (from 1). `filled_nulls`
    says whether nulls inside objects are Arrow's.
    """
    messages: list[Message] = []
    for item, at in _items(value, field):
        message = _as_message(item, at)
        if isinstance(message.get("content"), list) and has_tool_parts(message):
            messages += [_message(one, at, filled_nulls) for one in without_tool_parts(message, at)]
        else:
            messages.append(_message(message, at, filled_nulls))
    return messages


def parse_tools(value: object, field: str, filled_nulls: bool = False) -> list[dict[str, Any]] | None:
    """The tool schemas of a row: a list of objects or of their JSON texts, or JSON text of a list; None if empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    tools = _objects(value, field, f"field '{field}' is not a list of tool objects", filled_nulls)
    return [found for tool in tools for found in openai_tools(tool)] or None


def wrapped_functions(functions: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """OpenAI's schemas of 2023 (`functions`) in the form that templates expect."""
    return functions and [{"type": "function", "function": function} for function in functions]


def check_conversation(conversation: Conversation, prompt: str, response: str) -> None:
    """Raise `RowProblem` if a conversation holds no user text, no assistant message to learn, or an empty one.

    `prompt` and `response` are the fields that should hold the user's and the assistant's text, for the reason.
    """
    messages = conversation.messages
    if not any(m["role"] == "user" and m["content"].strip() for m in messages):
        raise RowProblem(f"field '{prompt}' holds no user text")
    if not conversation.trained_turns():
        if conversation.untrained:
            raise MarkedRow("every assistant message is marked as not to be learnt")
        raise RowProblem(f"field '{response}' holds no response to learn (no assistant message)")
    for number, message in enumerate(messages, start=1):
        empty = not message.get("content", "").strip() and "tool_calls" not in message
        if message["role"] == "assistant" and empty:
            place = f", message {number}," if len(messages) > 2 else ""
            raise RowProblem(f"field '{response}'{place} holds no response (it is empty)")


def _items(value: object, field: str) -> list[tuple[object, str]]:
    """The messages of a list, not checked yet, each with its place in words."""
    items = _as_rows(_from_json_text(value, field))
    if not isinstance(items, list):
        raise RowProblem(f"field '{field}' is {type(items).__name__}, not a list of messages")
    listed = cast("list[object]", items)
    if not listed:
        raise RowProblem(f"field '{field}' is an empty list")
    if all(isinstance(item, str) for item in listed):
        listed = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(listed)]
    return [(item, f"field '{field}', message {n}") for n, item in enumerate(listed, start=1)]


def _as_rows(value: object) -> object:
    """A mapping of keys to lists of equal length, as `datasets` wrote sequences once, as a list of mappings."""
    if not isinstance(value, Mapping):
        return value
    columns = cast("Mapping[str, object]", value)
    lists = [cast("list[object]", column) for column in columns.values() if isinstance(column, list)]
    if not lists or len(lists) < len(columns) or len({len(column) for column in lists}) > 1:
        return columns
    return [dict(zip(columns, entries, strict=True)) for entries in zip(*lists, strict=True)]


def _from_json_text(value: object, field: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        found: object = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowProblem(f"{_named(field)} is text but not JSON ({one_line(str(error), 80)})") from error
    if may_be_too_deep(value) and too_deep(found):
        raise RowProblem(f"{_named(field)} {TOO_DEEP}")
    return found


def _named(field: str) -> str:
    """The name of a field, or a place that names one already, in a reason."""
    return field if field.startswith("field '") else f"field '{field}'"


def _as_message(item: object, place: str) -> Message:
    item = as_mapping(item)
    if not isinstance(item, Mapping):
        raise RowProblem(f"{place} is {type(item).__name__}, not an object")
    message = {key: value for key, value in cast("Mapping[str, Any]", item).items() if value is not None}
    return _unpacked(message, place) if isinstance(message.get(OTHER_FIELDS), str) else message


def _unpacked(message: Message, place: str) -> Message:
    others = _from_json_text(message[OTHER_FIELDS], f"{place}, {OTHER_FIELDS}")
    if not isinstance(others, dict):
        raise RowProblem(f"{place}, '{OTHER_FIELDS}' is not the JSON text of an object")
    return {**cast("Message", others), **{key: value for key, value in message.items() if key != OTHER_FIELDS}}


def _message(message: Message, place: str, filled_nulls: bool) -> Message:
    """The message in its final form: known role, content as text, tool calls as objects."""
    keys = ("role", "content")
    if "from" in message and "role" not in message:
        keys, message = ("from", "value"), dict(message)
        message["role"] = message.pop("from")
        if "value" in message:
            message["content"] = message.pop("value")
    name = message.get("role")
    if not isinstance(name, str):
        raise RowProblem(f"{place} has no '{keys[0]}'")
    if name == _CALL_ROLE:
        calls = _function_calls(message.pop("content", None), place, keys[1])
        return {**message, "role": "assistant", "tool_calls": _tool_calls(calls, place, False)}
    role = _ROLES.get(name) or _ROLES.get(name.lower())
    if role is None:
        known = ", ".join([*_ROLES, _CALL_ROLE])
        raise RowProblem(f"{place} has the unknown role '{one_line(name, 40)}' (known: {known})")
    out = {**message, "role": role}
    called = out.pop("function_call", None)  # OpenAI's form of 2023
    if called and not out.get("tool_calls"):
        out["tool_calls"] = [{"type": "function", "function": called}]
    written = out.pop("tool_calls", None)
    calls = _tool_calls(written, place, filled_nulls) if role == "assistant" else []
    if calls:
        out["tool_calls"] = calls
    content = joined_text(out.pop("content", None), f"{place}, '{keys[1]}'")
    if content is not None:
        out["content"] = content
    elif not calls:
        raise RowProblem(f"{place} has no '{keys[1]}'")
    return out


def joined_text(content: object, place: str) -> str | None:
    """The text of a message's content: text, a number, or a list of text parts; None for null.

    Anything else is a `RowProblem` that names the place.
    """
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, bool | int | float):
        return json.dumps(content)
    if not isinstance(content, list):
        raise RowProblem(f"{place} is {type(content).__name__}, not text")
    parts: list[str] = []
    for part in cast("list[object]", content):
        mapping = as_mapping(part)
        fields = cast("Mapping[str, object]", mapping if isinstance(mapping, Mapping) else {"text": part})
        text, kind = fields.get("text"), fields.get("type")
        if not isinstance(text, str) or kind not in _TEXT_PARTS:
            kind = kind_of(part) if kind is None else kind
            raise RowProblem(
                f"{place} has a part of type '{one_line(str(kind), 40)}'; only text parts can be used, so "
                "put what it says into a text, or take it out"
            )
        parts.append(text)
    return "".join(parts)


def _tool_calls(value: object, place: str, filled_nulls: bool) -> list[dict[str, Any]]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    where = f"{place}, 'tool_calls'"
    calls = _objects(value, where, f"{where} is not a list of objects", filled_nulls)
    for call in calls:
        function = call.get("function", call)
        if not isinstance(function, dict) or not isinstance(cast("dict[str, Any]", function).get("name"), str):
            raise RowProblem(f"{where} has a call without a name")
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


def _function_calls(content: object, place: str, key: str) -> list[dict[str, Any]]:
    """ShareGPT's `function_call` turn, JSON of one call or several, as OpenAI tool calls."""
    if not isinstance(content, str):
        raise RowProblem(f"{place}, '{key}' is not the JSON text of a function call")
    parsed = _from_json_text(content, f"{place}, '{key}'")
    calls = cast("list[object]", parsed if isinstance(parsed, list) else [parsed])
    if not all(isinstance(call, dict) and isinstance(cast("dict[str, Any]", call).get("name"), str) for call in calls):
        raise RowProblem(f"{place}, '{key}' is not a function call with a name")
    return [{"type": "function", "function": call} for call in calls]


def _objects(value: object, field: str, problem: str, filled_nulls: bool) -> list[dict[str, Any]]:
    """A list of objects, or of their JSON texts, or JSON text of one, without keys whose null is no value, as a copy.

    Anything else is a `RowProblem`.
    """
    whole = _from_json_text(value, field)
    if not isinstance(whole, list):
        raise RowProblem(problem)
    written = isinstance(value, str)
    items: list[object] = []
    for item in cast("list[object]", whole):
        found = _from_json_text(item, field)
        items.append(without_nulls(found, filled_nulls and not written and found is item))
    if not all(isinstance(item, Mapping) for item in items):
        raise RowProblem(problem)
    return cast("list[dict[str, Any]]", items)
