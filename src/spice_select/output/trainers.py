"""The selected rows as every trainer gets them: one table of chats, and their tokens with the selection's masks.

Contract: `train.parquet` holds the selection in one schema for all formats of a pool. Parquet, not JSON lines: loaders
of JSON infer the columns from the first 10 MB and fail when tools or tool calls first appear later. Nested values that
differ from row to row (tool schemas, arguments of calls) are JSON text. Only `training_dataset` touches the disk; it
reads.
"""

# pyarrow ships no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from spice_select.amounts import parse_share
from spice_select.errors import OutputError, PoolError
from spice_select.pool.encoding import Encoder
from spice_select.pool.fields import TEMPLATE_OPTIONS
from spice_select.pool.marks import take_turn_marks
from spice_select.pool.messages import OTHER_FIELDS, Conversation, Message, chat_messages, parse_tools
from spice_select.pool.problems import RowProblem
from spice_select.pool.rendering import Renderer, Rendering
from spice_select.row_tables import plain_json

TRAIN_FILE, EVAL_FILE = "train.parquet", "eval.parquet"
IGNORED = -100  # PyTorch's label of a token that is no target

_OWN_KEYS = ("train", "tool_calls", OTHER_FIELDS)
_FUNCTION = pa.struct([("name", pa.string()), ("arguments", pa.string())])
_CALL = pa.struct([("type", pa.string()), ("id", pa.string()), ("function", _FUNCTION)])
_OWN_TYPES: dict[str, pa.DataType] = {
    "role": pa.string(),
    "content": pa.string(),
    "tool_calls": pa.list_(_CALL),
    "train": pa.bool_(),
}


def held_out(rows: int, share: str | None, seed: int) -> set[int]:
    """Places, among so many chosen rows, of those that are kept for evaluation: the share, drawn by the seed.

    At least one row is, and at least one is trained on; of a single row, or without a share, none is held out.
    """
    if share is None or rows < 2:
        return set()
    count = min(max(1, round(parse_share(share) * rows)), rows - 1)
    return {*np.random.default_rng(seed).permutation(rows)[:count].tolist()}


def training_row(conversation: Conversation, row_id: str, source: str) -> dict[str, Any]:
    """One row of `train.parquet`: `id`, `source`, `messages`; `tools` and `chat_template_kwargs`, JSON text or None.

    A message has `role`, `content` (absent only beside tool calls), its further keys whose value is text, `tool_calls`
    if it has any, `other_fields` (JSON text of all other keys, which a template may use), and `train` = False if it is
    an assistant's message that is context and no target.
    """
    messages = [_message(one, context=i in conversation.untrained) for i, one in enumerate(conversation.messages)]
    tools = None if conversation.tools is None else _json(conversation.tools)
    options = _json(dict(conversation.template_options)) if conversation.template_options else None
    return {"id": row_id, "source": source, "messages": messages, "tools": tools, TEMPLATE_OPTIONS: options}


def training_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The table of `train.parquet` from rows of `training_row`, in the same order.

    `tools`, `chat_template_kwargs`, and each key of the messages beyond `role` and `content`, is there only if some row
    needs it.
    """
    found = {key for row in rows for message in row["messages"] for key in message}
    keys = ["role", "content", *sorted(found - {"role", "content"})]
    message_type = pa.struct([(key, _OWN_TYPES.get(key, pa.string())) for key in keys])
    names, types = ["id", "source", "messages"], [pa.string(), pa.string(), pa.list_(message_type)]
    for name in ("tools", TEMPLATE_OPTIONS):
        if any(row[name] is not None for row in rows):
            names, types = [*names, name], [*types, pa.string()]
    arrays: list[Any] = [pa.array([r[n] for r in rows], t) for n, t in zip(names, types, strict=True)]
    return pa.Table.from_arrays(arrays, names=names)


def training_dataset(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = 2048,
    note: Callable[[str], None] = warnings.warn,
) -> datasets.Dataset:
    """Tokenise `train.parquet` for a trainer, with loss on the assistant's tokens and nothing else.

    For TRL's `SFTTrainer` (its `assistant_only_loss` needs a template with generation marks, which many lack) and, by a
    run's `make_tokens.py`, for LLaMA-Factory and Axolotl. The targets are those of the selection: the assistant's text
    and its end-of-turn token, in every turn that is trained.

    Args:
        path: the `train.parquet` of a run.
        tokenizer: of the model to train.
        max_length: tokens of a row that are kept. A row that keeps no target is left out.
        note: receives a sentence that counts the rows that are left out, if there are any.

    Returns:
        `input_ids` and `labels` of each row, in order; a label is the token's id, or -100 for no target.

    Raises:
        OutputError: the file cannot be read as a training file.
        PoolError: the model's chat template refuses a row; the message names it.
        TemplateError: the chat template does not show which tokens are the assistant's.

    """
    renderer, renderings = Renderer(tokenizer), list[Rendering]()
    for row in _read(Path(path)):
        try:
            renderings.append(renderer.render(_conversation(row)))
        except RowProblem as problem:
            raise PoolError(f"{path}, row '{row['id']}': {problem.reason}") from problem
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    for encoded in Encoder(tokenizer).encode(renderings):
        tokens: list[int] = encoded.input_ids[:max_length].tolist()
        targets: list[bool] = encoded.trained[:max_length].tolist()
        if any(targets):
            ids.append(tokens)
            labels.append([t if target else IGNORED for t, target in zip(tokens, targets, strict=True)])
    if left_out := len(renderings) - len(ids):
        note(
            f"{path}: {left_out:,} of {len(renderings):,} rows are left out because max_length {max_length} cuts off "
            "their whole responses"
        )
    return datasets.Dataset.from_dict({"input_ids": ids, "labels": labels})


def _message(message: Message, *, context: bool) -> Message:
    out: Message = {key: value for key, value in message.items() if isinstance(value, str) and key not in _OWN_KEYS}
    others = {key: value for key, value in message.items() if key not in (*out, "tool_calls", "train")}
    if others:
        out[OTHER_FIELDS] = plain_json(others)
    if "tool_calls" in message:
        out["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return {**out, "train": False} if context else out


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function: Mapping[str, Any] = call.get("function", call)
    arguments = function.get("arguments", {})
    return {
        "type": "function",
        "id": call.get("id"),
        "function": {
            "name": function["name"],
            "arguments": arguments if isinstance(arguments, str) else _json(arguments),
        },
    }


def _conversation(row: Mapping[str, Any]) -> Conversation:
    messages = chat_messages(row["messages"], "messages")
    context, options = frozenset(take_turn_marks(messages, "messages")), row.get(TEMPLATE_OPTIONS)
    tools = parse_tools(row.get("tools"), "tools")
    return Conversation(messages, tools, context, {} if options is None else json.loads(options))


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise OutputError(f"{path}: cannot be read as Parquet ({error}).\nGive a run's {TRAIN_FILE}.") from error
    if not rows or not {"id", "messages"} <= rows[0].keys():
        raise OutputError(f"{path}: holds no rows with 'id' and 'messages'.\nGive a run's {TRAIN_FILE}.")
    return cast("list[dict[str, Any]]", rows)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
