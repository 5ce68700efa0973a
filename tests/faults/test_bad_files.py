"""Whatever a pool's file or rows hold, a run refuses them in one to three lines that say where, and writes nothing."""

import gzip
import json
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracles.commands import refusal
from oracles.runs import chat_rows, write_jsonl

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
PAIR = {"prompt": "q", "response": "a"}
LINE = json.dumps(PAIR).encode() + b"\n"
DEEP = "[" * 3000 + "]" * 3000


def file(name: str, content: bytes):
    """A pool of this one file."""

    def make(folder: Path) -> list[object]:
        (folder / name).write_bytes(content)
        return [name]

    return make


def rows(*found: object):
    """A JSON Lines pool of these rows, after a good one of the same format where there is one."""
    return file("p.jsonl", "".join(json.dumps(row) + "\n" for row in found).encode())


def chat(*messages: object, **fields: object):
    """A pool of a good chat and this one."""
    return rows(GOOD, {"messages": list(messages), **fields})


def parquet(table: pa.Table):
    def make(folder: Path) -> list[object]:
        pq.write_table(table, folder / "p.parquet")
        return ["p.parquet"]

    return make


def foreign_parquet(folder: Path) -> list[object]:
    pq.write_table(pa.table({"alpha": [1, 2], "beta": ["x", "y"]}), folder / "p.parquet")
    return ["p.parquet"]


def torn_parquet(folder: Path) -> list[object]:
    pq.write_table(pa.Table.from_pylist([PAIR] * 50), folder / "p.parquet", compression="none")
    content = bytearray((folder / "p.parquet").read_bytes())
    content[4:60] = b"\xff" * 56
    (folder / "p.parquet").write_bytes(content)
    return ["p.parquet"]


def footer_of_parquet(folder: Path) -> list[object]:
    """A footer that claims to be 2 GB long."""
    (folder / "p.parquet").write_bytes(b"PAR1" + b"\0" * 64 + struct.pack("<I", 2**31 - 1) + b"PAR1")
    return ["p.parquet"]


def folder_of_files(folder: Path) -> list[object]:
    (folder / "data").mkdir()
    (folder / "data" / "notes.unknown").write_text("no rows")
    return ["data"]


def a_run(folder: Path) -> list[object]:
    (folder / "run").mkdir()
    write_jsonl(folder / "run" / "selected.jsonl", [GOOD])
    return ["run"]


def dataset_by_hand(info: object, state: object):
    """A folder that says of itself that it is a saved dataset."""

    def make(folder: Path) -> list[object]:
        (folder / "saved").mkdir()
        (folder / "saved" / "dataset_info.json").write_text(json.dumps(info))
        (folder / "saved" / "state.json").write_text(json.dumps(state))
        return ["saved"]

    return make


def twice(folder: Path) -> list[object]:
    write_jsonl(folder / "p.jsonl", [GOOD])
    return ["p.jsonl", "./p.jsonl"]


def calls(*found: object):
    return chat({"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": list(found)})


def sharegpt(*turns: object, **fields: object):
    good = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    return rows(good, {"conversations": list(turns), **fields})


def pairs(**fields: object):
    return rows(PAIR, {**PAIR, **fields})


def alpaca(**fields: object):
    return rows({"instruction": "q", "output": "a"}, {"instruction": "q", "output": "a", **fields})


def dolly(**fields: object):
    good = {"instruction": "q", "response": "a"}
    return rows(good, {**good, **fields})


def completion(**fields: object):
    good = {"prompt": "q", "completion": "a"}
    return rows(good, {**good, **fields})


USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}

FILES = {
    "no pool at all": (lambda folder: [], ["POOL"]),
    "missing": (lambda folder: ["absent.jsonl"], ["absent.jsonl", "no such file"]),
    "missing without a suffix": (lambda folder: ["absent"], ["absent", "no such file"]),
    "a name of 300 characters": (lambda folder: ["x" * 300 + ".jsonl"], ["no such file"]),
    "a name with a line feed": (lambda folder: ["a\nb.jsonl"], ["no such file"]),
    "empty": (file("p.jsonl", b""), ["p.jsonl", "no rows"]),
    "blank lines": (file("p.jsonl", b"\n \n\t\n"), ["p.jsonl", "no rows"]),
    "a byte order mark alone": (file("p.jsonl", b"\xef\xbb\xbf"), ["p.jsonl", "no rows"]),
    "unknown suffix": (file("p.docx", b"x"), ["p.docx", "Known endings"]),
    "no suffix": (file("README", b"x"), ["README", "Known endings"]),
    "gzipped parquet": (file("p.parquet.gz", b""), ["p.parquet.gz", "Known endings"]),
    "tar": (file("p.tar.gz", gzip.compress(b"x")), ["p.tar.gz", "Known endings"]),
    "a folder of other files": (folder_of_files, ["data", "cannot be read as a folder of data files"]),
    "a run": (a_run, ["selected.jsonl"]),
    "the same twice": (twice, ["p.jsonl", "twice"]),
    "torn gzip": (file("p.jsonl.gz", gzip.compress(LINE * 9)[:-9]), ["p.jsonl.gz", "broken gzip"]),
    "no gzip": (file("p.csv.gz", b"prompt,response\na,b\n"), ["p.csv.gz", "broken gzip"]),
    "empty gzip": (file("p.json.gz", b""), ["p.json.gz"]),
    "damaged gzip": (file("p.jsonl.gz", gzip.compress(LINE * 99)[:30] + b"\0\1\2\3" * 9), ["broken gzip"]),
    "gzip then rubbish": (file("p.jsonl.gz", gzip.compress(LINE) + b"rubbish"), ["broken gzip", "after line 1"]),
    "not UTF-8 in jsonl": (file("p.jsonl", LINE + b'{"prompt": "\xff"}\n'), ["row 2", "byte 13"]),
    "not UTF-8 in json": (file("p.json", b'[{"prompt": "\xff"}]'), ["p.json", "byte 14"]),
    "not UTF-8 in csv": (file("p.csv", b"prompt,response\na,\xff\n"), ["line 2", "byte 3"]),
    "UTF-16": (file("p.jsonl", LINE.decode().encode("utf-16")), ["row 1", "UTF-8"]),
    "UTF-16 csv": (file("p.csv", "prompt,response\na,b\n".encode("utf-16")), ["p.csv", "UTF-8"]),
    "broken JSON": (file("p.jsonl", LINE + b"{broken\n"), ["row 2", "broken JSON"]),
    "half a line": (file("p.jsonl", LINE + LINE[:9]), ["row 2", "broken JSON"]),
    "two objects in a line": (file("p.jsonl", LINE + LINE.strip() + LINE), ["row 2", "Extra data"]),
    "scalars": (file("p.jsonl", b"1\n2\n"), ["row 1", "a number"]),
    "an array under .jsonl": (file("p.jsonl", b"[\n" + LINE + b"]\n"), ["row 1", ".json file"]),
    "a broken array": (file("p.json", b"[" + LINE + b', {"prompt": ]'), ["row 2", "broken JSON"]),
    "an open array": (file("p.json", b"[" + LINE), ["row 1", "broken JSON"]),
    "an array without commas": (file("p.json", b"[" + LINE + LINE + b"]"), ["row 1", "line 2"]),
    "text after the array": (file("p.json", b"[" + LINE + b"] x"), ["follows the end", "row 1"]),
    "an empty array": (file("p.json", b"[]"), ["p.json", "no rows"]),
    "one object": (file("p.json", b'{"data": [' + LINE + b"]}"), ["one object", "data"]),
    "one number": (file("p.json", b"3"), ["p.json", "a number"]),
    "an array of arrays": (file("p.json", b"[[1], [2]]"), ["row 1", "a list"]),
    "a header alone": (file("p.csv", b"prompt,response\n"), ["p.csv", "no rows"]),
    "a column twice": (file("p.csv", b"prompt,prompt\na,b\n"), ["p.csv", "'prompt' twice"]),
    "an open quote": (file("p.csv", b'prompt,response\na,b\nc,"d\n'), ["row 2", "broken CSV"]),
    "a quote inside": (file("p.csv", b'prompt,response\na,"b"c\n'), ["row 1", "broken CSV"]),
    "too many cells": (file("p.csv", b"prompt,response\na,b\nc,d,e\n"), ["row 2", "3 cells"]),
    "semicolons": (file("p.csv", b"prompt;response\na;b\n"), ["p.csv", "prompt;response"]),
    "no parquet": (file("p.parquet", b"PAR1 no"), ["p.parquet", "Parquet"]),
    "empty parquet": (file("p.parquet", b""), ["p.parquet", "Parquet"]),
    "torn parquet": (torn_parquet, ["p.parquet", "Parquet"]),
    "a footer beyond the file": (footer_of_parquet, ["p.parquet", "Parquet"]),
    "foreign parquet": (foreign_parquet, ["p.parquet", "alpha, beta"]),
    "parquet of bytes": (parquet(pa.table({"prompt": [b"\xff"], "response": [b"b"]})), ["row 1", "bytes"]),
    "null bytes alone": (file("p.jsonl", b"\0" * 5000), ["row 1", "broken JSON"]),
    "half a surrogate pair": (
        file("p.jsonl", LINE + b'{"prompt": "\\ud83d", "response": "b"}'),
        ["row 2", "surrogate"],
    ),
    # How deep JSON may be before its parser gives up depends on Python; a list is no row in either case.
    "lists in lists": (file("p.jsonl", LINE + DEEP.encode()), ["row 2"]),
    "a deep field": (file("p.jsonl", LINE + b'{"prompt": ' + b"[" * 200 + b"]" * 200 + b"}"), ["row 2", "deeper than"]),
    "a deep array": (file("p.json", DEEP.encode()), ["row 1"]),
    "a number of 9,999 digits": (file("p.jsonl", LINE + b'{"prompt": ' + b"9" * 9999 + b"}"), ["row 2", "digits"]),
    "a dataset of nothing": (dataset_by_hand({}, {}), ["saved", "save_to_disk"]),
    "a dataset that is a list": (dataset_by_hand([], []), ["saved", "save_to_disk"]),
    "a dataset of a file above": (
        dataset_by_hand({"features": {}}, {"_data_files": [{"filename": "../../p"}], "_split": None}),
        ["saved", "save_to_disk"],
    ),
    "a dataset of an odd feature": (
        dataset_by_hand({"features": {"a": {"_type": "Path"}}}, {"_data_files": [], "_split": None}),
        ["saved", "save_to_disk"],
    ),
}

ROWS = {
    "no known format": (rows({"alpha": 1}), ["alpha", "no known format"]),
    "two formats": (rows({**PAIR, "completion": "c"}), ["more than one format"]),
    "no fields": (rows({}), ["no known format"]),
    "messages missing": (rows(GOOD, {"x": 1}), ["row 2", "'messages' is missing"]),
    "messages null": (rows(GOOD, {"messages": None}), ["row 2", "'messages' is missing or null"]),
    "messages text": (rows(GOOD, {"messages": "hello"}), ["row 2", "text but not JSON"]),
    "messages object": (rows(GOOD, {"messages": {}}), ["row 2", "not a list of messages"]),
    "messages empty": (chat(), ["row 2", "empty list"]),
    "messages deep JSON": (rows(GOOD, {"messages": "[" * 500 + "]" * 500}), ["row 2", "deeper than"]),
    "message text": (chat("hello"), ["row 2", "no assistant message"]),
    "message a number": (chat("hello", 3), ["row 2", "message 1", "not an object"]),
    "no role": (chat({"content": "q"}, ANSWER), ["message 1", "no 'role'"]),
    "role a number": (chat({"role": 1, "content": "q"}, ANSWER), ["message 1", "no 'role'"]),
    "unknown role": (chat({"role": "narrator", "content": "q"}, ANSWER), ["message 1", "narrator"]),
    "no content": (chat({"role": "user"}, ANSWER), ["message 1", "no 'content'"]),
    "content an object": (chat({"role": "user", "content": {}}, ANSWER), ["message 1", "dict, not text"]),
    "a picture": (
        chat({"role": "user", "content": [{"type": "image"}]}, ANSWER),
        ["message 1", "'image'", "only text"],
    ),
    "empty answer": (chat(USER, {"role": "assistant", "content": " \n"}), ["row 2", "no response"]),
    "no answer": (chat(USER), ["row 2", "no assistant message"]),
    "no question": (chat(ANSWER), ["row 2", "no user text"]),
    "a weight of a half": (chat(USER, {**ANSWER, "weight": 0.5}), ["row 2", "message 2", "'weight' is 0.5"]),
    "tools a number": (chat(USER, ANSWER, tools=3), ["row 2", "'tools' is not a list"]),
    "tools of texts": (chat(USER, ANSWER, tools=["f"]), ["row 2", "'tools' is text but not JSON"]),
    "tools no JSON": (chat(USER, ANSWER, tools="{"), ["row 2", "'tools' is text but not JSON"]),
    "calls a number": (chat(USER, {"role": "assistant", "tool_calls": 3}), ["message 2", "not a list of objects"]),
    "calls of texts": (calls("f"), ["message 2", "'tool_calls' is text but not JSON"]),
    "a call without a name": (calls({"function": {"arguments": "{}"}}), ["message 2", "without a name"]),
    "a call of a text": (calls({"function": "f"}), ["message 2", "without a name"]),
    "turns empty": (sharegpt(), ["row 2", "empty list"]),
    "turn without value": (sharegpt({"from": "human"}), ["message 1", "no 'value'"]),
    "turn of nobody": (sharegpt({"from": "alien", "value": "q"}), ["message 1", "alien"]),
    "turn from a number": (sharegpt({"from": 7, "value": "q"}), ["message 1", "no 'from'"]),
    "function call no JSON": (sharegpt({"from": "function_call", "value": "f()"}), ["message 1", "not JSON"]),
    "function call unnamed": (sharegpt({"from": "function_call", "value": "{}"}), ["message 1", "with a name"]),
    "system a list": (sharegpt({"from": "human", "value": "q"}, system=[3]), ["row 2", "'system' has a part"]),
    "prompt missing": (rows(PAIR, {"response": "a"}), ["row 2", "'prompt' is missing"]),
    "prompt an object": (pairs(prompt={}), ["row 2", "'prompt' is dict, not text"]),
    "prompt blank": (pairs(prompt=" "), ["row 2", "'prompt' holds no user text"]),
    "response a list": (pairs(response=[True]), ["row 2", "'response' is list"]),
    "response blank": (pairs(response=""), ["row 2", "'response' holds no response"]),
    "completion an object": (completion(completion={"a": 1}), ["row 2", "'completion' is dict"]),
    "completion of the user": (completion(completion=[USER]), ["row 2", "no assistant message"]),
    "completion empty": (completion(completion=[]), ["row 2", "empty list"]),
    "prompt of numbers": (completion(prompt=[3]), ["row 2", "not an object"]),
    "output null": (alpaca(output=None), ["row 2", "'output' is missing or null"]),
    "input a list": (alpaca(input=[]), ["row 2", "'input' is list"]),
    "history a text": (alpaca(history="q"), ["row 2", "'history'"]),
    "history of three": (alpaca(history=[["q", "a", "b"]]), ["row 2", "'history'"]),
    "history of numbers": (alpaca(history=[[1, 2]]), ["row 2", "'history'"]),
    "history without an answer": (alpaca(history=[["q", ""]]), ["row 2", "no response"]),
    "input and context": (dolly(input="i", context="c"), ["row 2", "both filled"]),
    "context a list": (dolly(context=[1]), ["row 2", "'context' is list"]),
    "question a list": (
        rows({"question": "q", "answer": "a"}, {"question": ["q"], "answer": "a"}),
        ["row 2", "'question' is list"],
    ),
    "answer an object": (
        rows({"question": "q", "answer": "a"}, {"question": "q", "answer": {"text": "a"}}),
        ["row 2", "'answer' is dict"],
    ),
    "cut before the answer": (
        lambda folder: [write_jsonl(folder / "p.jsonl", chat_rows(5)), "--max-length", 9],
        ["row 1", "max_length 9"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files(name, tmp_path, tiny_model, monkeypatch, capsys):
    make, clues = FILES[name]
    arguments = ["run", *make(tmp_path), "--model", tiny_model, "--output", "out"]
    message = refusal(tmp_path, arguments, monkeypatch, capsys)
    assert [clue for clue in clues if clue not in message] == [], message


@pytest.mark.parametrize("name", ROWS)
def test_bad_rows(name, tmp_path, tiny_model, monkeypatch, capsys):
    make, clues = ROWS[name]
    arguments = ["run", *make(tmp_path), "--model", tiny_model, "--output", "out"]
    message = refusal(tmp_path, arguments, monkeypatch, capsys)
    assert [clue for clue in clues if clue not in message] == [], message
