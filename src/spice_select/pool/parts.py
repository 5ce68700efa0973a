"""Messages made of parts, as Anthropic's and Gemini's, in OpenAI's form: text, tool calls, messages of tools.

Where a part has no place in that form, the row is refused, and the reason names the part.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from spice_select.pool.nulls import as_mapping, without_nulls
from spice_select.pool.problems import RowProblem, kind_of, one_line

Part = Mapping[str, Any]

_USE, _RESULT = "tool_use", "tool_result"
_GEMINI = {"functionCall": _USE, "function_call": _USE, "functionResponse": _RESULT, "function_response": _RESULT}
_NO_TEXT = ("thought", "thoughtSignature", "thought_signature")  # beside a Gemini part's content


def has_tool_parts(message: Mapping[str, Any]) -> bool:
    """Whether the content of a message has Anthropic's parts of type `tool_use` or `tool_result`."""
    content: object = message.get("content")
    return isinstance(content, list) and any(_type(part) in (_USE, _RESULT) for part in cast("list[object]", content))


def without_tool_parts(message: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """A message with parts as one with `tool_calls`, or as messages of tools before it. Raises `RowProblem`."""
    if not has_tool_parts(message):
        return [message]
    parts = [cast(Part, as_mapping(part)) for part in message["content"]]
    kinds = [_type(part) for part in parts]
    tool_parts = [kind for kind in kinds if kind in (_USE, _RESULT)]
    calls, is_assistant = _USE in kinds, str(message.get("role")).lower() in ("assistant", "model")
    if len(set(tool_parts)) > 1 or calls != is_assistant or "tool_calls" in message:
        raise RowProblem(
            f"{place} has a part of type '{tool_parts[0]}' that cannot be used there; calls (tool_use, functionCall) "
            "belong to the assistant, results to the message after them"
        )
    rest = [part for part, kind in zip(parts, kinds, strict=True) if kind not in (_USE, _RESULT)]
    used = [part for part, kind in zip(parts, kinds, strict=True) if kind in (_USE, _RESULT)]
    if rest and kinds != ([*map(_type, rest), *tool_parts] if calls else [*tool_parts, *map(_type, rest)]):
        raise RowProblem(
            f"{place} has text {'after' if calls else 'before'} a part of type '{tool_parts[0]}', for which a chat has "
            "no place; move it to the other side, or to a message of its own"
        )
    other = {key: value for key, value in message.items() if key != "content"} | ({"content": rest} if rest else {})
    if calls:
        return [{**other, "tool_calls": [_call(part) for part in used]}]
    return [*map(_tool_message, used), *([other] if rest else [])]


def gemini_messages(value: object, field: str, filled_nulls: bool) -> list[dict[str, Any]]:
    """Gemini's `contents` as messages with Anthropic's parts. Raises `RowProblem`."""
    if not isinstance(value, list):
        raise RowProblem(f"field '{field}' is {kind_of(value)}, not a list of contents")
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(cast("list[object]", value), start=1):
        place, content = f"field '{field}', message {number}", as_mapping(item)
        if not isinstance(content, Mapping):
            raise RowProblem(f"{place} is {kind_of(content)}, not an object")
        found = {key: value for key, value in cast("Mapping[str, Any]", content).items() if value is not None}
        parts = found.pop("parts", None)
        if not isinstance(parts, list):
            raise RowProblem(f"{place} has no list of 'parts'")
        written = [_gemini_part(part, place, filled_nulls) for part in cast("list[object]", parts)]
        messages.append({"role": "user", **found, "content": written})
    return messages


def openai_tools(tool: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A tool with Anthropic's `input_schema`, or Gemini's declarations of several, in OpenAI's form; others unchanged.

    Raises `RowProblem`.
    """
    declared: object = tool.get("functionDeclarations", tool.get("function_declarations"))
    if declared is not None:
        functions = cast("list[object]", declared) if isinstance(declared, list) else [declared]
        if not all(isinstance(function, Mapping) for function in functions):
            raise RowProblem("a tool's 'functionDeclarations' is not a list of objects")
        return [{"type": "function", "function": function} for function in functions]
    if "input_schema" not in tool or "name" not in tool:
        return [dict(tool)]
    kept = {key: value for key, value in tool.items() if key not in ("type", "input_schema", "cache_control")}
    return [{"type": "function", "function": {**kept, "parameters": tool["input_schema"]}}]


def _type(part: object) -> object:
    part = as_mapping(part)
    return cast(Part, part).get("type") if isinstance(part, Mapping) else None


def _call(part: Part) -> dict[str, Any]:
    identity = {} if part.get("id") is None else {"id": part["id"]}
    return {
        **identity,
        "type": "function",
        "function": {"name": part.get("name"), "arguments": part.get("input") or {}},
    }


def _tool_message(part: Part) -> dict[str, Any]:
    named = {"tool_call_id": part.get("tool_use_id"), "name": part.get("name")}
    content: object = part.get("content")
    kept = {key: value for key, value in named.items() if value is not None}
    return {"role": "tool", **kept, "content": "" if content is None else content}


def _gemini_part(value: object, place: str, filled_nulls: bool) -> Part:
    value = as_mapping(value)
    if not isinstance(value, Mapping):
        raise RowProblem(f"{place} has a part that is {kind_of(value)}, not an object")
    part = {key: found for key, found in cast(Part, value).items() if found is not None}
    keys = [key for key in part if key not in _NO_TEXT]
    kind = _GEMINI.get(keys[0]) if len(keys) == 1 else None
    if part.get("thought") or (kind is None and keys != ["text"]):
        name = one_line("thought" if part.get("thought") else ", ".join(keys), 60)
        raise RowProblem(f"{place} has a part '{name}'; only text, functionCall and functionResponse can be used")
    if kind is None:
        return {"type": "text", "text": part["text"]}
    inner = as_mapping(part[keys[0]])
    if not isinstance(inner, Mapping):
        raise RowProblem(f"{place}, '{keys[0]}' is {kind_of(inner)}, not an object")
    content = cast(Part, inner)
    if kind == _USE:
        return {"type": _USE, "id": content.get("id"), "name": content.get("name"), "input": content.get("args")}
    response = without_nulls(content.get("response"), filled_nulls) if filled_nulls else content.get("response")
    text = response if isinstance(response, str) else json.dumps(response, ensure_ascii=False, default=str)
    return {"type": _RESULT, "tool_use_id": content.get("id"), "name": content.get("name"), "content": text}
