"""Every known layout of rows becomes the same chat; what fits none, or is ambiguous, says what was found and known."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracles.pool_families import tokenizer_of
from spice_select.errors import ConfigError, PoolError
from spice_select.pool.examples import PoolOptions, read_pool, segments
from spice_select.pool.formats import FORMATS

CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def read(rows, family="chatml", **options):
    return read_pool([rows], tokenizer_of(family), PoolOptions(**options))


def only(row, family="chatml", **options):
    (example,) = read([row], family, **options).examples
    return example


SAME_CHAT = {
    "messages": {"messages": CHAT},
    "messages as JSON text": {"messages": json.dumps(CHAT)},
    "messages in text parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, CHAT[1]]},
    "messages with nulls": {"messages": [{**m, "name": None, "tool_calls": None} for m in CHAT], "tools": None},
    "sharegpt": {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
    "sharegpt with roles": {"conversations": CHAT},
    "sharegpt user and assistant": {
        "conversations": [{"from": "user", "value": "Q"}, {"from": "assistant", "value": "A"}]
    },
    "prompt and completion": {"prompt": "Q", "completion": "A"},
    "prompt and completion as messages": {"prompt": CHAT[:1], "completion": CHAT[1:]},
    "prompt and response": {"prompt": "Q", "response": "A"},
    "alpaca": {"instruction": "Q", "input": "", "output": "A"},
    "alpaca without input": {"instruction": "Q", "input": None, "output": "A"},
    "instruction and response": {"instruction": "Q", "response": "A", "category": "open_qa", "context": " "},
    "question and answer": {"question": "Q", "answer": "A"},
}


@pytest.mark.parametrize("row", SAME_CHAT.values(), ids=SAME_CHAT)
def test_every_format_gives_the_same_chat(row):
    example = only(row)
    assert example.conversation.messages == CHAT
    assert example.conversation.tools is None
    assert example.row.data == row
    assert example.input_ids.tolist() == only({"messages": CHAT}).input_ids.tolist()


@pytest.mark.parametrize("field", ["input", "context"])
def test_input_follows_the_instruction_after_a_blank_line(field):
    row = {"instruction": "Add.", field: "1 and 2", "response": "3"}
    assert only(row).conversation.messages[0]["content"] == "Add.\n\n1 and 2"


def test_system_and_history_of_alpaca_rows():
    row = {"instruction": "c", "input": "", "output": "d", "system": "s", "history": [["a", "b"]]}
    example = only(row)
    assert [(m["role"], m["content"]) for m in example.conversation.messages] == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
    ]


def test_sharegpt_names_of_roles():
    names = ["system", "human", "chatgpt", "user", "bing", "human", "function_call", "observation", "gpt"]
    values = ["s", "a", "b", "c", "d", "e", '{"name": "f", "arguments": {"x": 1}}', "g", "h"]
    row = {"conversations": [{"from": n, "value": v} for n, v in zip(names, values, strict=True)]}
    messages = only(row, family="tools").conversation.messages
    roles = ["system", "user", "assistant", "user", "assistant", "user", "assistant", "tool", "assistant"]
    assert [m["role"] for m in messages] == roles
    assert messages[6]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]


def trained(example, family="chatml"):
    return [text for text, is_trained in segments(example, tokenizer_of(family)) if is_trained]


def test_assistant_turns_of_a_prompt_are_context():
    row = {"prompt": [*CHAT, {"role": "user", "content": "R"}], "completion": [{"role": "assistant", "content": "B"}]}
    assert trained(only(row)) == ["B<|im_end|>"]


@pytest.mark.parametrize("family", ["chatml", "chatml-generation", "tools"])
def test_weight_zero_makes_a_turn_context(family):
    chat = [*CHAT, {"role": "user", "content": "R"}, {"role": "assistant", "content": "B", "weight": 1}]
    chat[1] = {**chat[1], "weight": 0}
    example = only({"messages": chat}, family)
    assert trained(example, family) == ["B<|im_end|>"]
    assert all("weight" not in message for message in example.conversation.messages)


def test_chat_that_starts_with_the_assistant():
    chat = [{"role": "assistant", "content": "Hello!"}, *CHAT]
    assert trained(only({"messages": chat})) == ["Hello!<|im_end|>", "A<|im_end|>"]


def test_parquet_and_datasets_nulls_are_absent_fields(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "Q", "name": "x"}, {"role": "assistant", "content": "A"}]},
        {"messages": CHAT},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pool.parquet")
    for source in (tmp_path / "pool.parquet", datasets.Dataset.from_list(rows)):
        pool = read_pool([source], tokenizer_of("chatml"), PoolOptions())
        assert pool.examples[1].conversation.messages == CHAT
        assert pool.examples[0].conversation.messages[0]["name"] == "x"


def test_all_null_columns_do_not_make_a_format():
    assert only({"prompt": None, "completion": None, "messages": CHAT}).conversation.messages == CHAT


def test_columns_and_format_options():
    row = {"q": "Q", "a": "A", "name": "n7"}
    options = {"columns": {"prompt": "q", "completion": "a", "id": "name"}, "format": "prompt-completion"}
    assert only(row, **options).conversation.messages == CHAT
    assert only(row, **options).id == "n7"
    both = {"prompt": "Q", "completion": "A", "response": "B"}
    assert only(both, format="prompt-response").conversation.messages[1]["content"] == "B"


def test_columns_serve_the_files_that_have_them():
    pool = read_pool(
        [[{"q": "Q", "a": "A"}], [{"messages": CHAT}], [{"prompt": "Q", "completion": "A"}]],
        tokenizer_of("chatml"),
        PoolOptions(columns={"prompt": "q", "completion": "a"}),
    )
    assert [e.conversation.messages for e in pool.examples] == [CHAT] * 3


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        ([{"text": "a"}], {}, ["(text)", "no known format", *(f.name for f in FORMATS), "columns:"]),
        ([{}], {}, ["(none)", "no known format"]),
        (
            [{"prompt": "a", "completion": "b", "response": "c"}],
            {},
            ["more than one format: prompt-completion and prompt-response", "format: prompt-completion"],
        ),
        ([{"text": "a"}], {"format": "alpaca"}, ["not in format alpaca", "'instruction' and 'output'", "found: text"]),
        ([{"prompt": "a", "response": "b"}], {"columns": {"prompt": "q"}}, ["no input has a column 'q'", "'prompt'"]),
    ],
)
def test_undetectable_and_ambiguous_fields(rows, options, says):
    with pytest.raises(PoolError) as caught:
        read(rows, **options)
    assert len(str(caught.value).splitlines()) <= 3
    for words in says:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "chatml"}, "format 'chatml' is unknown"),
        ({"columns": {"promt": "q"}}, "'promt' is no field of any format"),
        ({"columns": {"messages": "q"}, "format": "alpaca"}, "'messages' is no field of alpaca"),
        ({"max_length": 1}, "max_length"),
    ],
)
def test_options_are_checked_where_they_are_made(options, says):
    with pytest.raises(ConfigError, match=says) as caught:
        PoolOptions(**options)
    assert len(str(caught.value).splitlines()) <= 3


def test_one_bad_first_row_does_not_decide_the_format():
    rows = [{"instruction": "a"}, *[{"instruction": "Q", "output": "A"}] * 3]
    pool = read(rows, skip_invalid=True)
    assert [r.reason for r in pool.rejected] == ["field 'output' is missing or null"]


U, A = CHAT
BAD_ROWS = [
    ({"instruction": "a", "output": ""}, "field 'output' holds no response"),
    ({"instruction": "a", "output": " \n"}, "field 'output' holds no response"),
    ({"instruction": "a", "output": None}, "field 'output' is missing or null"),
    ({"instruction": "a", "output": {"x": 42}}, "field 'output' is dict, not text"),
    ({"instruction": ["a"], "output": "b"}, "field 'instruction' is list, not text"),
    ({"instruction": "a", "input": [3], "output": "b"}, "field 'input' is list, not text"),
    ({"instruction": " ", "output": "b"}, "field 'instruction' holds no user text"),
    ({"instruction": "a", "output": "b", "history": [["x"]]}, "field 'history' is not a list of"),
    ({"instruction": "a", "response": "b", "input": "c", "context": "d"}, "'input' and 'context' are both filled"),
    ({"prompt": "a", "completion": [U]}, "field 'completion' holds no assistant message"),
    ({"prompt": [], "completion": "b"}, "field 'prompt' is an empty list"),
    ({"messages": []}, "field 'messages' is an empty list"),
    ({"messages": {}}, "field 'messages' is dict, not a list"),
    ({"messages": "[{"}, "field 'messages' is text but not JSON"),
    ({"messages": ["a"]}, "holds no response to learn"),
    ({"messages": ["a", 3]}, "message 1 is str, not an object"),
    ({"messages": [{"content": "a"}, A]}, "message 1 has no 'role'"),
    ({"messages": [{"role": "alien", "content": "a"}, A]}, "message 1 has the unknown role 'alien' (known: system"),
    ({"messages": [{"role": "user"}, A]}, "message 1 has no 'content'"),
    ({"messages": [{"role": "user", "content": {}}, A]}, "message 1, 'content' is dict, not text"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}, A]}, "a part of type 'image'"),
    ({"messages": [{**U, "content": [{"type": "tool_use", "name": "f"}]}, A]}, "a part of type 'tool_use' that cannot"),
    ({"messages": [U, {**A, "content": [{"type": "thinking", "text": "x"}]}]}, "a part of type 'thinking'"),
    ({"messages": [U]}, "holds no response to learn"),
    ({"messages": [U, {**A, "weight": 0.5}]}, "message 2, 'weight' is 0.5; only 0 and 1, or false and true"),
    ({"messages": [U, {**A, "train": "no"}]}, "message 2, 'train' is 'no'"),
    ({"messages": [U, {**A, "train": True, "loss": False}]}, "'train' and 'loss' contradict each other"),
    ({"messages": [U, {**A, "mask": 1}]}, "'mask' is no mark that can be followed"),
    ({"messages": CHAT, "loss_mask": [1, 0, 1]}, "field 'loss_mask' is no list of 2 marks"),
    ({"messages": CHAT, "loss_mask": [1, 2]}, "field 'loss_mask', entry 2 is 2"),
    ({"messages": CHAT, "images": ["x.png"]}, "field 'images' holds media"),
    ({"messages": [{"role": "system", "content": "s"}, *CHAT], "system": "t"}, "two different system prompts"),
    ({"messages": CHAT, "chat_template_kwargs": "fast"}, "field 'chat_template_kwargs' is str, not an object"),
    ({"messages": [A]}, "field 'messages' holds no user text"),
    ({"messages": [U, A, U, {**A, "content": ""}]}, "field 'messages', message 4, holds no response"),
    ({"messages": CHAT, "tools": "{"}, "field 'tools' is text but not JSON"),
    ({"messages": CHAT, "tools": ["x"]}, "field 'tools' is text but not JSON"),
    ({"messages": CHAT, "tools": [3]}, "field 'tools' is not a list of tool objects"),
    ({"messages": [U, {"role": "assistant", "tool_calls": "x"}]}, "message 2, 'tool_calls' is text but not JSON"),
    ({"messages": [U, {"role": "assistant", "tool_calls": {"name": "f"}}]}, "'tool_calls' is not a list"),
    ({"messages": [U, {"role": "assistant", "tool_calls": [{}]}]}, "'tool_calls' has a call without a name"),
    ({"conversations": [{"value": "a"}]}, "message 1 has no 'role'"),
    ({"conversations": [{"from": "alien", "value": "a"}]}, "unknown role 'alien' (known: system"),
    ({"conversations": [{"from": "human"}]}, "message 1 has no 'value'"),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "f("}]}, "not JSON"),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{}"}]}, "with a name"),
    ({"messages": [U, {**A, "content": "\ud83d"}]}, "surrogate"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_bad_rows_have_a_short_reason_that_names_the_field(row, reason):
    """The bad row sits among good ones of its own format, so that only the row can be at fault."""
    good = next(dict.fromkeys(f.required, "x") for f in FORMATS if set(f.required) <= row.keys())
    if {"messages", "conversations"} & row.keys():
        good = {next(iter(row)): CHAT}
    pool = read([good, good, row], skip_invalid=True)
    (rejection,) = pool.rejected
    assert reason in rejection.reason
    assert len(rejection.reason) <= 200
    assert rejection.number == 3
    assert rejection.raw == row
    with pytest.raises(PoolError, match="row 3"):
        read([good, good, row])
