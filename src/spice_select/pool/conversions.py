"""Rows to chats: for each known format, how its fields become messages."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from spice_select.pool.fields import Fields
from spice_select.pool.marks import listed_marks, take_turn_marks
from spice_select.pool.messages import Conversation, Message, chat_messages, joined_text, wrapped_functions
from spice_select.pool.parts import gemini_messages
from spice_select.pool.problems import RowProblem


def from_messages(fields: Fields) -> Conversation:
    """A list of messages under OpenAI's or ShareGPT's names, with a system prompt beside it."""
    role = fields.required[0]
    turns = _messages(fields, role, fields.value(role))
    return _conversation(fields, turns, take_turn_marks(turns, fields.column(role)))


def from_gemini(fields: Fields) -> Conversation:
    """Gemini's `contents`, made of parts."""
    name = fields.column("contents")
    turns = _messages(fields, "contents", gemini_messages(fields.listed("contents"), name, fields.filled_nulls))
    return _conversation(fields, turns, take_turn_marks(turns, name))


def from_prompt_completion(fields: Fields) -> Conversation:
    """A prompt and a completion, each a text or a list of messages; the prompt's assistant turns are context."""
    prompt, completion = _side(fields, "prompt", "user"), _side(fields, "completion", "assistant")
    if all(m["role"] != "assistant" for m in completion):
        raise RowProblem(f"field '{fields.column('completion')}' holds no assistant message")
    marked = take_turn_marks(completion, fields.column("completion"))
    take_turn_marks(prompt, fields.column("prompt"))
    context = {i for i, m in enumerate(prompt) if m["role"] == "assistant"}
    return _conversation(fields, prompt + completion, {len(prompt) + i for i in marked}, context)


def from_preference(fields: Fields) -> Conversation:
    """The chosen answer after its prompt; where `chosen` is a whole chat, its last assistant message is the answer."""
    chosen = _side(fields, "chosen", "assistant")
    prompt = [] if fields.value("prompt") is None else _side(fields, "prompt", "user")
    turns = chosen if any(m["role"] == "user" for m in chosen) else prompt + chosen
    marked = take_turn_marks(turns, fields.column("chosen"))
    assistants = [i for i, m in enumerate(turns) if m["role"] == "assistant"]
    return _conversation(fields, turns, marked, set(assistants[:-1]))


def from_single_turn(fields: Fields) -> Conversation:
    """System prompt, history, one user turn (with its input or context), one response.

    `input` follows what is asked after a blank line, and so does the `context` of an instruction; the context of a
    question or prompt stands above it.
    """
    user, response = fields.required
    given, context = fields.optional_text("input"), fields.optional_text("context")
    if given and context:
        raise RowProblem(f"fields '{fields.column('input')}' and '{fields.column('context')}' are both filled")
    above, below = ("", context) if user == "instruction" else (context, "")
    asked = "\n\n".join(filter(None, [above, fields.text(user), given, below]))
    turn = [{"role": "user", "content": asked}, {"role": "assistant", "content": fields.text(response)}]
    return _conversation(fields, [*_history(fields), *turn], set())


def _conversation(
    fields: Fields, turns: Sequence[Message], marked: set[int], context: Collection[int] = ()
) -> Conversation:
    """The chat with the row's system prompt before it, its list of marks, its tools and variables for the template.

    `marked` are places in `turns` of assistant messages that a mark makes context; `context`, of earlier ones.
    """
    system, turns, marked = _system(fields, turns), list(turns), marked | listed_marks(fields.row, turns)
    return Conversation(
        system + turns,
        wrapped_functions(fields.tools()) if fields.column("tools") == "functions" else fields.tools(),
        frozenset(place + len(system) for place in marked.union(context)),
        fields.template_options(),
        frozenset(place + len(system) for place in marked),
    )


def _system(fields: Fields, turns: Sequence[Message]) -> list[Message]:
    text = _system_text(fields)
    if not text.strip():
        return []
    if turns and turns[0]["role"] == "system":
        if turns[0].get("content", "").strip() == text.strip():
            return []
        raise RowProblem(f"field '{fields.column('system')}' and the first message are two different system prompts")
    return [{"role": "system", "content": text}]


def _system_text(fields: Fields) -> str:
    value = fields.value("system")
    if isinstance(value, Mapping):  # Gemini's
        value = cast("Mapping[str, Any]", value).get("parts", value)
    if isinstance(value, list):  # of text parts
        return joined_text(cast("list[object]", value), f"field '{fields.column('system')}'") or ""
    return "" if value is None else fields.optional_text("system")


def _side(fields: Fields, role: str, speaker: str) -> list[Message]:
    """One side of a row: messages, as a list or its JSON text, or the text of one by `speaker`."""
    messages = fields.messages_in(role)
    if messages is not None or isinstance(fields.value(role), list):
        return _messages(fields, role, fields.value(role) if messages is None else messages)
    return [{"role": speaker, "content": fields.text(role)}]


def _messages(fields: Fields, role: str, value: object) -> list[Message]:
    return chat_messages(value, fields.column(role), fields.filled_nulls)


def _history(fields: Fields) -> list[Message]:
    pairs: object = fields.listed("history")
    messages: list[Message] = []
    for pair in cast("list[object]", [] if pairs is None else pairs if isinstance(pairs, list) else [pairs]):
        texts = cast("list[Any]", pair) if isinstance(pair, list) else []
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise RowProblem(f"field '{fields.column('history')}' is not a list of (user, assistant) pairs of text")
        messages += [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": texts[1]}]
    return messages
