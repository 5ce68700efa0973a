"""Shapes of real data, one table: rows as they are found, and the texts that are trained or what the user is told."""

import bz2
import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracles.pool_families import tokenizer_of
from spice_select.errors import ConfigError, PoolError
from spice_select.file_options import FileOptions
from spice_select.pool.examples import PoolOptions, read_pool, segments

U, A, B = (
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "good"},
    {"role": "assistant", "content": "BAD"},
)
TWO = [U, B, {"role": "user", "content": "again"}, A]
SHARE = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "good"}]
CALL = {"name": "get_w", "arguments": {"city": "Oslo"}}
ARGUMENTS = json.dumps(CALL["arguments"])
WRITTEN = '<tool_call>{"name": "get_w", "arguments": {"city": "Oslo"}}</tool_call>'
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "get_w", "description": "w", "parameters": SCHEMA}}
RESULT = {"role": "tool", "content": "5"}
USE = {"type": "tool_use", "id": "t1", "name": "get_w", "input": {"city": "Oslo"}}
ANSWERED = {"type": "tool_result", "tool_use_id": "t1", "content": "5"}


def called(**call):
    return [U, {"role": "assistant", "content": "", **call}, RESULT, A]


def parts(*contents):
    return [{"role": ("user", "model")[n % 2], "parts": content} for n, content in enumerate(contents)]


TRAINED = {
    "01 train: false on a turn": ({"messages": [U, {**B, "train": False}, *TWO[2:]]}, ["good"]),
    "02 weight 0 in ShareGPT": (
        {"conversations": [SHARE[0], {"from": "gpt", "value": "BAD", "weight": 0}, *SHARE]},
        ["good"],
    ),
    "04 lists of texts": ({"conversations": ["Q", "good", "more?", "yes"]}, ["good", "yes"]),
    "07 preference with whole chats": ({"prompt": "Q", "chosen": [U, A], "rejected": [U, B]}, ["good"]),
    "10 empty history": ({"instruction": "Q", "input": "", "output": "good", "history": []}, ["good"]),
    "10 history in a CSV cell": ({"instruction": "Q", "output": "good", "history": '[["q", "BAD"]]'}, ["BAD", "good"]),
    "11 numbers": ({"question": "1+1?", "answer": 2}, ["2"]),
    "11 truth values": ({"question": "Is it?", "answer": True}, ["true"]),
    "12 calls as JSON text": ({"messages": called(tool_calls=json.dumps([{"function": CALL}]))}, [WRITTEN, "good"]),
    "12 tools as list of JSON texts": ({"messages": [U, A], "tools": [json.dumps(TOOL)]}, ["good"]),
    "12 tools as empty text": ({"messages": [U, A], "tools": ""}, ["good"]),
    "13 function_call of 2023": (
        {"messages": called(function_call={**CALL, "arguments": ARGUMENTS}), "functions": [TOOL["function"]]},
        [WRITTEN, "good"],
    ),
    "14 roles function_call and observation": (
        {
            "conversations": [
                SHARE[0],
                {"from": "function_call", "value": json.dumps(CALL)},
                {"from": "observation", "value": "5"},
                SHARE[1],
            ],
            "tools": json.dumps([TOOL["function"]]),
        },
        [WRITTEN, "good"],
    ),
    "14 other names": ({"conversations": [{**SHARE[0], "from": "Human"}, {**SHARE[1], "from": "bot"}]}, ["good"]),
    "15 text parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q", "image_url": None}]}, A]},
        ["good"],
    ),
    "28 our own training file": ({"messages": [U, {**B, "train": False}, *TWO[2:]], "id": "x"}, ["good"]),
    "41 Anthropic's calls and results": (
        {
            "system": [{"type": "text", "text": "Be brief."}],
            "messages": [
                U,
                {"role": "assistant", "content": [{"type": "text", "text": "looking"}, USE]},
                {"role": "user", "content": [ANSWERED, {"type": "text", "text": "well?"}]},
                A,
            ],
            "tools": [{"name": "get_w", "description": "w", "input_schema": SCHEMA}],
        },
        ["looking" + WRITTEN, "good"],
    ),
    "41 Gemini": (
        {
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": parts(
                [{"text": "Q"}],
                [{"functionCall": {"name": "get_w", "args": {"city": "Oslo"}}}],
                [{"functionResponse": {"name": "get_w", "response": {"t": 5}}}],
                [{"text": "go"}, {"text": "od"}],
            ),
            "tools": [{"functionDeclarations": [TOOL["function"]]}],
        },
        [WRITTEN, "good"],
    ),
    "51 context beside a question": ({"question": "Q", "context": "C", "answer": "good"}, ["good"]),
    "57 loss on turns": ({"messages": [U, {**B, "loss": False}, *TWO[2:]]}, ["good"]),
    "57 loss_mask of the row": ({"messages": TWO, "loss_mask": [0, 0, 0, 1]}, ["good"]),
    "59 dict of lists": ({"messages": {"role": ["user", "assistant"], "content": ["Q", "good"]}}, ["good"]),
}  # fmt: skip


def read(*inputs, **options):
    return read_pool(list(inputs), tokenizer_of("tools"), PoolOptions(**options))


def trained(pool):
    texts = [[t for t, is_trained in segments(e, tokenizer_of("tools")) if is_trained] for e in pool.examples]
    return [[text.removesuffix("<|im_end|>") for text in row] for row in texts]


@pytest.mark.parametrize(("row", "texts"), TRAINED.values(), ids=TRAINED)
def test_what_is_trained(row, texts):
    pool = read([row])
    assert trained(pool) == [texts]
    assert not pool.files[0].unused.keys() - {"rejected"}


def test_parts_give_the_same_chat_as_openai_messages():
    chats = [read([TRAINED[case][0]]).examples[0].conversation for case in TRAINED if case.startswith("41")]
    for chat in chats:
        assert chat.tools == [TOOL] and chat.messages[0] == {"role": "system", "content": "Be brief."}
        assert [m["role"] for m in chat.messages][:4] == ["system", "user", "assistant", "tool"]
    assert chats[0].messages[3] == {"role": "tool", "content": "5", "tool_call_id": "t1"}
    assert chats[0].messages[4] == {"role": "user", "content": "well?"}
    assert chats[1].messages[3] == {"role": "tool", "content": '{"t": 5}', "name": "get_w"}


TOLD = {
    "14 a call in Python's quotes": (
        {"conversations": [SHARE[0], {"from": "function_call", "value": "{'name': 'f'}"}, SHARE[1]]},
        "message 2, 'value' is text but not JSON",
    ),
    "15 images": ({"messages": [U, A], "images": ["x.png"]}, "field 'images' holds media"),
    "15 thinking parts": (
        {"messages": [U, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}]},
        "a part of type 'thinking'; only text parts can be used, so put what it says into a text",
    ),
    "39 label: false": ({"prompt": "Q", "completion": "BAD", "label": False}, "'label' is false, which marks the row"),
    "41 text after a call": (
        {"messages": [U, {"role": "assistant", "content": [USE, {"type": "text", "text": "x"}]}]},
        "message 2 has text after a part of type 'tool_use'",
    ),
    "41 text before a result": (
        {"messages": [U, {"role": "user", "content": [{"type": "text", "text": "x"}, ANSWERED]}, A]},
        "message 2 has text before a part of type 'tool_result'",
    ),
    "41 a call by the user": ({"messages": [{"role": "user", "content": [USE]}, A]}, "cannot be used there"),
    "41 a picture as result": (
        {"messages": [U, {"role": "user", "content": [{**ANSWERED, "content": [{"type": "image"}]}]}, A]},
        "a part of type 'image'",
    ),
    "41 a picture for Gemini": ({"contents": parts([{"inlineData": {}}], [{"text": "x"}])}, "a part 'inlineData'"),
    "41 thoughts": ({"contents": parts([{"text": "Q"}], [{"text": "x", "thought": True}])}, "a part 'thought'"),
    "47 text in contents": ({"contents": "Q"}, "field 'contents' is text, not a list of contents"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "reason"), TOLD.values(), ids=TOLD)
def test_what_the_user_is_told(row, reason):
    (rejected,) = read(
        [row, {name: TRAINED_BESIDE[name] for name in TRAINED_BESIDE if name in row}], skip_invalid=True
    ).rejected
    assert reason in rejected.reason and "field 'field" not in rejected.reason and not rejected.reason.endswith(".")


TRAINED_BESIDE = {"messages": [U, A], "conversations": SHARE, "prompt": "Q", "completion": "good",
                  "contents": parts([{"text": "Q"}], [{"text": "good"}])}  # fmt: skip

ALPACA = {"instruction": "Q", "input": "", "output": "good"}
BOTH = {"instruction": "Q", "response": "BAD", "conversations": SHARE}  # 53: Magpie


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_format_of_one_file_is_given_for_it_alone(tmp_path):
    one, other = write(tmp_path / "magpie.jsonl", [BOTH]), write(tmp_path / "alpaca.jsonl", [ALPACA])
    for name in ("magpie.jsonl", "magpie", str(one), "mag*"):
        pool = read(one, other, per_file={name: FileOptions("sharegpt")})
        assert trained(pool) == [["good"], ["good"]]
        assert [file.format for file in pool.files] == ["sharegpt", "alpaca"]
    pool = read(one, other, per_file={"magpie": FileOptions(None, {"question": "instruction", "answer": "response"}),
                                      "alpaca": FileOptions("alpaca")}, format="question-answer")  # fmt: skip
    assert trained(pool) == [["BAD"], ["good"]]
    with pytest.raises(ConfigError, match=r"(?s)No input is called 'magpi'.*Inputs: magpie.jsonl, alpaca.jsonl"):
        read(one, other, per_file={"magpi": FileOptions("sharegpt")})
    with pytest.raises(ConfigError, match=r"'magpie' and 'mag\*'.* both mean magpie.jsonl"):
        read(one, other, per_file={"magpie": FileOptions("sharegpt"), "mag*": FileOptions("sharegpt")})
    with pytest.raises(PoolError, match=r"alpaca.jsonl: has no column 'nothing' \(given for 'system'\)"):
        read(other, per_file={"alpaca": FileOptions(None, {"system": "nothing"})})
    with pytest.raises(ConfigError, match=r"alpaca: format 'x' is unknown"):
        read(other, per_file={"alpaca": FileOptions("x")})


def test_a_pattern_names_its_shards_also_when_they_are_given_one_by_one(tmp_path):
    shards = [write(tmp_path / f"part-{n}.jsonl", [BOTH]) for n in range(2)]
    pattern = str(tmp_path / "part-*.jsonl")
    for inputs in ([pattern], shards):
        assert len(read(*inputs, per_file={pattern: FileOptions("sharegpt")}).examples) == 2


MIXTURES = {
    "half and half": [{"messages": [U, A]}, ALPACA] * 3,
    "few of another": [{"messages": [U, A]}] * 5 + [ALPACA],
    "one schema with empty fields": [{"messages": [U, A], **dict.fromkeys(ALPACA, "")}, {"messages": [], **ALPACA}],
    "one schema with nulls": [{"messages": [U, A], **dict.fromkeys(ALPACA)}, {"messages": None, **ALPACA}],
    "the other one first": [ALPACA, {"question": "Q", "answer": "good"}, {"conversations": SHARE}],
}


@pytest.mark.parametrize("rows", MIXTURES.values(), ids=MIXTURES)
def test_a_file_of_several_formats_is_read_row_by_row(rows):
    pool = read(rows)
    assert trained(pool) == [["good"]] * len(rows)
    (file,) = pool.files
    assert file.format == "mixed" and sum(file.formats.values()) == len(rows) and file.unused == {}


def test_rows_of_a_mixed_file_that_are_not_plain_are_told():
    plain = [{"messages": [U, A]}, ALPACA]
    with pytest.raises(PoolError, match="fit more than one format: sharegpt and instruction-response"):
        read([BOTH, BOTH, *plain])
    late = [*plain * 50, BOTH, {"x": 1}]
    reasons = [row.reason for row in read(late, skip_invalid=True).rejected]
    assert "fit more than one format: sharegpt and instruction-response" in reasons[0]
    assert "its fields (x) fit no known format" in reasons[1]
    with pytest.raises(PoolError, match="not in format messages"):
        read([ALPACA, ALPACA, plain[0]], format="messages")
    (rejected,) = read([plain[0], plain[0], ALPACA], format="messages", skip_invalid=True).rejected
    assert rejected.reason == "field 'messages' is missing or null"


GIVEN = {"city": "Rome", "unit": None, "near": [{"x": None}]}


def arguments(pool):
    return pool.examples[0].conversation.messages[1]["tool_calls"][0]["function"]["arguments"]


def test_a_null_that_was_written_reaches_the_template(tmp_path):
    call, tool = {"type": "function", "function": {"name": "f", "arguments": GIVEN}}, {"name": "f", "parameters": GIVEN}
    chat = called(tool_calls=[call])
    lines = write(tmp_path / "p.jsonl", [{"messages": chat, "tools": [tool]}])
    for source in (
        [{"messages": chat, "tools": [tool]}],
        lines,
        [{"messages": json.dumps(chat), "tools": json.dumps([tool])}],
    ):
        pool = read(source)
        assert arguments(pool) == GIVEN and pool.examples[0].conversation.tools == [tool]
        assert '"unit": null' in trained(pool)[0][0]
    table = pa.Table.from_pylist([{"messages": chat, "tools": json.dumps([tool])}])
    pq.write_table(table, tmp_path / "p.parquet")
    for source in (tmp_path / "p.parquet", datasets.Dataset(table)):
        pool = read(source)
        assert arguments(pool) == {"city": "Rome", "near": [{}]} and pool.examples[0].conversation.tools == [tool]
    text = called(tool_calls=[{"type": "function", "function": {"name": "f", "arguments": json.dumps(GIVEN)}}])
    pq.write_table(pa.Table.from_pylist([{"messages": text}]), tmp_path / "t.parquet")
    assert arguments(read(tmp_path / "t.parquet")) == GIVEN


def lines_of(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


JOINED = {
    "a byte order mark inside": ("p.jsonl", lines_of(ALPACA) + b"\xef\xbb\xbf" + lines_of(ALPACA)),
    "two gzip members": ("p.jsonl.gz", gzip.compress(lines_of(ALPACA)) + gzip.compress(lines_of(ALPACA))),
    "two bzip2 streams": ("p.jsonl.bz2", bz2.compress(lines_of(ALPACA)) + bz2.compress(lines_of(ALPACA))),
    "capital letters": ("P.JSONL", lines_of(ALPACA, ALPACA)),
}


@pytest.mark.parametrize(("name", "content"), JOINED.values(), ids=JOINED)
def test_joined_files_are_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert trained(read(tmp_path / name)) == [["good"]] * 2


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_under_the_name_of_json_lines_is_told(tmp_path, indent):
    (tmp_path / "p.jsonl").write_text(json.dumps([ALPACA, ALPACA], indent=indent))
    with pytest.raises(PoolError, match=r"row 1: .* \(a JSON array of rows belongs in a \.json file\)") as told:
        read(tmp_path / "p.jsonl")
    assert "two rows on one line" not in str(told.value)
