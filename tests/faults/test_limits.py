"""Limits of reading: a row, a packed file or a nesting beyond measure is named, and the memory is not filled."""

import gzip
import io
import json
import resource

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracles.pool_families import tokenizer_of
from spice_select.errors import PoolError
from spice_select.pool import streams
from spice_select.pool.examples import PoolOptions, read_pool
from spice_select.pool.readers import READERS

ROW = {"prompt": "q", "response": "a"}
LINE = json.dumps(ROW).encode() + b"\n"


@pytest.fixture
def small(monkeypatch):
    """Limits of a size that tests reach."""
    monkeypatch.setattr(streams, "ROW_BYTES", 1000)
    monkeypatch.setattr(streams, "UNPACKED_BYTES", 1_000_000)


def read(path, skip=True):
    return read_pool([path], tokenizer_of("chatml"), PoolOptions(skip_invalid=skip))


def test_a_line_beyond_the_limit_is_a_row_that_is_left_out(small, tmp_path):
    (tmp_path / "p.jsonl").write_bytes(LINE + b'{"prompt": "' + b"x" * 5000 + b'"}\n' + LINE + b"y" * 9999)
    pool = read(tmp_path / "p.jsonl")
    assert [e.row.number for e in pool.examples] == [1, 3]
    assert [r.number for r in pool.rejected] == [2, 4]
    assert all("longer than 1,000 bytes" in r.reason for r in pool.rejected)
    with pytest.raises(PoolError, match="row 2"):
        read(tmp_path / "p.jsonl", skip=False)


def test_a_line_of_exactly_the_limit_is_read(small, tmp_path):
    for length, kept in ((1000, True), (1001, False)):
        filled = json.dumps({**ROW, "x": "y" * (length - len(json.dumps({**ROW, "x": ""})))}).encode()
        assert len(filled) == length
        (tmp_path / "p.jsonl").write_bytes(filled + b"\n" + LINE)
        assert len(read(tmp_path / "p.jsonl").examples) == 1 + kept


def test_elements_cells_and_rows_beyond_the_limit(small, tmp_path):
    (tmp_path / "p.json").write_bytes(b"[" + LINE + b',{"prompt": "' + b"x" * 300_000 + b'", "response": "a"}]')
    (tmp_path / "p.csv").write_bytes(b'prompt,response\na,b\nc,"' + b"x" * 5000 + b'"\n')
    (tmp_path / "open.csv").write_bytes(b'prompt,response\na,b\nc,"d\n' + b"e,f\n" * 5000)
    (tmp_path / "cells.csv").write_bytes(b"prompt,response\na,b\n" + b'"c\n",' * 500 + b"d\n")
    pq.write_table(pa.Table.from_pylist([ROW, {**ROW, "prompt": "x" * 5000}, ROW]), tmp_path / "p.parquet")
    for name, place in (("p.json", "row 2"), ("p.csv", "line 3"), ("open.csv", "line "), ("cells.csv", "line ")):
        with pytest.raises(PoolError, match=f"{place}.*longer than 1,000"):
            read(tmp_path / name)
    assert [r.number for r in read(tmp_path / "p.parquet").rejected] == [2]


def test_a_broken_element_is_not_called_too_long(small, tmp_path):
    (tmp_path / "p.json").write_bytes(b"[" + LINE + b',{"prompt": oops}' + (b"," + LINE) * 50_000 + b"]")
    with pytest.raises(PoolError, match=r"row 2: broken JSON: Expecting value: line 2 column 13\."):
        read(tmp_path / "p.json")


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv"])
def test_a_bomb_is_refused_and_says_how_to_go_on(small, tmp_path, kind):
    data = {".jsonl": LINE * 90_000, ".json": b"[" + LINE + (b"," + LINE) * 90_000 + b"]"}
    packed = gzip.compress(data.get(kind, b"prompt,response\n" + (b"q" * 50 + b",a\n") * 91_000))
    (tmp_path / f"p{kind}.gz").write_bytes(packed)
    with pytest.raises(PoolError, match=r"unpack to more than 1,000,000.*\n.*unpack it yourself"):
        list(READERS[kind](tmp_path / f"p{kind}.gz"))
    (tmp_path / f"plain{kind}").write_bytes(gzip.decompress(packed))
    assert sum(1 for _ in READERS[kind](tmp_path / f"plain{kind}")) >= 90_000


def test_much_text_that_packs_as_text_does_is_read(small, tmp_path):
    rows = [{**ROW, "x": f"{i * 7919 % 104729:x}" * 4} for i in range(40_000)]
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert [row.data for row in READERS[".jsonl"](tmp_path / "p.jsonl.gz")] == rows


def test_a_parquet_bomb_is_refused(small, tmp_path):
    """One long text, in every row, is written once by a dictionary."""
    pq.write_table(pa.Table.from_pylist([{**ROW, "x": "y" * 900}] * 20_000), tmp_path / "p.parquet")
    with pytest.raises(PoolError, match="unpack to more than"):
        list(READERS[".parquet"](tmp_path / "p.parquet"))


def test_a_gigabyte_in_a_line_never_lies_in_memory(tmp_path):
    """Members of a gzip file follow each other, so 17 packed blocks of 64 MiB are made in no time."""
    block = gzip.compress(b"\0" * (1 << 26), 1)
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(LINE) + block * 17)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PoolError, match="unpack it yourself"):
        read(tmp_path / "p.jsonl.gz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "kilobytes"


def test_arrays_are_read_alike_however_the_pieces_fall(tmp_path):
    """Multi-byte characters, escapes and numbers on the borders of what is read at once."""
    rows = [{"prompt": 'é日🙂\\"' * (i % 7), "n": [i * 1.5e-7, 10**i, True, None]} for i in range(60)]
    for pad in range(0, 40, 3):
        filled = [{"x": "y" * ((1 << 18) - 700 + pad)}, *rows]
        (tmp_path / "p.json").write_text("\ufeff \n" + json.dumps(filled, ensure_ascii=pad % 2 == 0, indent=pad % 3))
        assert [row.data for row in READERS[".json"](tmp_path / "p.json")] == filled


def test_rows_in_memory_and_json_in_texts_may_not_be_endless():
    own: dict = {"prompt": "q", "response": "a"}
    own["own"] = own
    deep = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "tools": json.dumps([{"a": json.loads("[" * 99 + "]" * 99)}])}  # fmt: skip
    for row in (own, deep):
        with pytest.raises(PoolError, match="deeper than 100 levels"):
            read_pool([[row]], tokenizer_of("chatml"))


def test_a_saved_dataset_runs_no_pickle_and_opens_no_file_that_it_names(tmp_path):
    """Arrow files can carry pickled extension types, and features name files to decode."""
    marker = tmp_path / "marker"
    pickled = b"\x80\x04c" + b"pathlib\nPath.touch\n" + b"."  # what an unpickler would have to import
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled}
    saved = tmp_path / "saved"
    datasets.Dataset.from_list([ROW]).save_to_disk(str(saved))
    (data,) = saved.glob("*.arrow")
    fields = [pa.field(name, pa.string(), metadata=metadata) for name in ROW]
    table = pa.table([["q"], ["a"]], schema=pa.schema(fields))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data.write_bytes(sink.getvalue())
    try:
        rows = [example.row.data for example in read(saved).examples]
    except PoolError:
        rows = [ROW]
    assert rows == [ROW]
    assert not marker.exists()


def test_no_file_that_a_row_names_is_opened(tmp_path):
    """Not by pictures in a column, in a list, in a field; and columns of JSON are still parsed."""
    kinds = {
        "prompt": datasets.Value("string"),
        "response": datasets.Value("string"),
        "picture": datasets.Image(),
        "list": datasets.List(datasets.Image()),
        "field": {"inner": datasets.LargeList(datasets.Image())},
        "json": datasets.Json(),
    }

    def row(content: bytes | None, path: str) -> dict:
        picture = {"bytes": content, "path": path}
        nested = {"list": [picture], "field": {"inner": [picture]}, "json": {"a": [1, {"b": None}]}}
        return ROW | {"picture": picture} | nested

    made = row(None, str(tmp_path / "no.png"))
    saved = datasets.Dataset.from_list([made] * 300, features=datasets.Features(kinds))
    (tmp_path / "no.png").touch()  # save_to_disk puts the file's bytes in place of its folder
    saved.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "no.png").unlink()
    with pytest.raises(FileNotFoundError):
        _ = saved[0]
    for source, expected in ((tmp_path / "saved", row(b"", "no.png")), (saved.select([299, 0]), made)):
        examples = read(source).examples
        assert all(example.row.data == expected for example in examples)
        assert [example.row.number for example in examples] == list(range(1, len(examples) + 1))


def test_json_of_a_dataset_nested_too_deep():
    deep = json.loads("[" * 150 + "]" * 150)
    kinds = datasets.Features({**{name: datasets.Value("string") for name in ROW}, "json": datasets.Json()})
    rows = datasets.Dataset.from_list([ROW | {"json": value} for value in ([], deep)], features=kinds)
    assert [(r.number, "nested deeper" in r.reason) for r in read(rows).rejected] == [(2, True)]


def test_a_row_of_a_dataset_beyond_the_limit(small):
    rows = datasets.Dataset.from_list([ROW, ROW | {"prompt": "x" * 5000}, ROW])
    assert [(r.number, "longer than 1,000" in r.reason) for r in read(rows).rejected] == [(2, True)]
