"""Files of every kind give the rows that were written; damage is reported with its file and place."""

import csv
import gzip
import hashlib
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oracles.pool_families import tokenizer_of
from spice_select.errors import PoolError
from spice_select.pool.examples import PoolOptions, read_pool
from spice_select.pool.readers import READERS

ROWS = [{"prompt": "What is 12 + 30?", "response": "It is 42."}, {"prompt": '日本?\nyes, "no"', "response": "é, 🙂\n"}]


def write(path, rows):
    """`rows` in the kind of file that the name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "csv":
        scratch = path.parent / "scratch"
        with scratch.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        data = scratch.read_bytes()
    elif kind == "json":
        data = json.dumps(rows, indent=1).encode()
    else:
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(*inputs, **options):
    return read_pool(list(inputs), tokenizer_of("chatml"), PoolOptions(**options))


def error_of(*inputs, **options) -> str:
    with pytest.raises(PoolError) as caught:
        read(*inputs, **options)
    return str(caught.value)


KINDS = [".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_back_as_written(tmp_path, kind):
    path = write(tmp_path / f"pool{kind}", ROWS)
    pool = read(path)
    assert [e.row.data for e in pool.examples] == ROWS
    assert [e.row.number for e in pool.examples] == [1, 2]
    assert [e.id for e in pool.examples] == ["pool-1", "pool-2"]
    (file,) = pool.files
    assert (file.name, file.path, file.format, file.rows) == ("pool", str(path), "prompt-response", 2)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".csv.gz"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1, max_size=5
    )
)
def test_any_text_survives(tmp_path, kind, texts):
    rows = [{"prompt": text, "response": "x" + text} for text in texts]
    path = write(tmp_path / f"any{kind}", rows)
    assert [row.data for row in READERS["." + kind.split(".")[1]](path)] == rows


def test_saved_dataset_hub_like_dataset_and_memory_agree(tmp_path):
    dataset = datasets.Dataset.from_list(ROWS)
    dataset.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": dataset}).save_to_disk(str(tmp_path / "splits"))
    pools = [read(tmp_path / "saved"), read(str(tmp_path / "splits")), read(dataset), read(ROWS)]
    for pool in pools:
        assert [e.row.data for e in pool.examples] == ROWS
    assert len({pool.files[0].sha256 for pool in pools}) == 1, "the same rows have different fingerprints"
    changed = read([*ROWS[:1], {**ROWS[1], "response": "other"}])
    assert changed.files[0].sha256 != pools[0].files[0].sha256
    assert [pool.files[0].name for pool in pools] == ["saved", "splits", "memory", "memory"]


def test_datasets_without_a_train_split_name_their_splits(tmp_path):
    datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "d"))
    assert "splits: test" in error_of(tmp_path / "d")


def test_bom_blank_lines_and_crlf(tmp_path):
    path = tmp_path / "pool.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path.write_bytes(b"\xef\xbb\xbf" + f"\r\n{lines[0]}\r\n\r\n  \r\n{lines[1]}".encode())
    pool = read(path)
    assert [e.row.data for e in pool.examples] == ROWS
    assert pool.examples[1].row.location == "pool.jsonl, row 2 (line 5)"
    csv_path = tmp_path / "bom.csv"
    csv_path.write_bytes(b"\xef\xbb\xbfprompt,response\r\na,b\r\n\r\nc,d\r\n")
    assert [e.row.data["prompt"] for e in read(csv_path).examples] == ["a", "c"]


def test_json_lines_under_a_json_name(tmp_path):
    path = tmp_path / "pool.json"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    assert [e.row.data for e in read(path).examples] == ROWS


def test_unicode_line_separators_do_not_split_rows(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b", "response": "c\x85d"}, ensure_ascii=False), encoding="utf-8")
    assert len(read(path).examples) == 1


def test_long_csv_cells(tmp_path):
    path = write(tmp_path / "long.csv", [{"prompt": "a", "response": "b" * 200_000}])
    assert read(path, max_length=50).truncated == 1
    assert csv.field_size_limit() == 131_072


BAD_LINES = [
    (b'{"prompt": "a", "response": ', "broken JSON"),
    (b'{"prompt": "\xff", "response": "b"}', "invalid UTF-8 at byte 13"),
    (b'["a", "b"]', "is a list, not an object"),
    (b"17", "is a number, not an object"),
    (b"null", "is null, not an object"),
    (b'{"prompt": "\\ud83d", "response": "b"}', "surrogate"),
    (b"[" * 100_000, "broken JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=[reason for _, reason in BAD_LINES])
def test_bad_lines_are_named_and_the_rest_is_kept(tmp_path, line, reason):
    path = tmp_path / "pool.jsonl"
    good = json.dumps(ROWS[0]).encode()
    path.write_bytes(b"\n".join([good, line, good]))
    message = error_of(path)
    assert "pool.jsonl, row 2: " in message
    assert reason in message
    assert "1 of 3 rows" in message
    assert "--skip-invalid" in message
    pool = read(path, skip_invalid=True)
    assert [e.row.number for e in pool.examples] == [1, 3]
    (rejection,) = pool.rejected
    assert rejection.number == 2
    assert rejection.location == "pool.jsonl, row 2"
    assert isinstance(rejection.raw, str)


def test_first_line_of_an_array_says_where_arrays_belong(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text(json.dumps(ROWS, indent=1))
    assert ".json file" in error_of(path)


DAMAGED = [
    ("pool.json", b'[{"prompt": "a", "response": "b"}, {"prompt": ]', "row 2: broken JSON"),
    ("pool.json", b'[{"prompt": "a", "response": "b"} {"prompt"', "row 1: broken JSON: ',' or ']'"),
    ("pool.json", b'[{"prompt": "a", "response": "b"}', "row 1: broken JSON"),
    ("pool.json", b'[{"prompt": "a", "response": "b"}] x', "text follows the end"),
    ("pool.json", b'{"data": [{"prompt": "a", "response": "b"}]}', "one object (fields: data)"),
    ("pool.json", b"3", "holds a number"),
    ("pool.json", b'[{"prompt": "a\xff"}]', "invalid UTF-8 at byte 15 (line 1)"),
    ("pool.json", b"[]", "no rows"),
    ("pool.jsonl", b"\n\n", "no rows"),
    ("pool.csv", b"", "no rows"),
    ("pool.csv", b"prompt,response\n", "no rows"),
    ("pool.csv", b"prompt,prompt\na,b\n", "'prompt' twice"),
    ("pool.csv", b'prompt,response\na,b\nc,"d\n', "row 2 (line 3): broken CSV"),
    ("pool.csv", b"prompt,response\na,b\nc,\xff\n", "line 3: invalid UTF-8 at byte 3"),
    ("pool.jsonl.gz", b"not gzip", "broken gzip"),
    ("pool.csv.gz", b"not gzip", "broken gzip"),
    ("pool.json.gz", gzip.compress(b"[{}]")[:-6], "broken gzip"),
    ("pool.jsonl.gz", gzip.compress(b'{"prompt": "a", "response": "b"}\n' * 9)[:-9], "broken gzip"),
    ("pool.parquet", b"PAR1 no", "Parquet"),
    ("pool.xlsx", b"", "Known endings"),
    ("pool.parquet.gz", b"", "Known endings"),
]


@pytest.mark.parametrize(("name", "data", "says"), DAMAGED, ids=[f"{n} {s}" for n, _, s in DAMAGED])
@pytest.mark.parametrize("skip", [False, True])
def test_damaged_files_stop_even_when_rows_may_be_skipped(tmp_path, name, data, says, skip):
    path = tmp_path / name
    path.write_bytes(data)
    message = error_of(path, skip_invalid=skip)
    assert name in message
    assert says in message
    assert len(message.splitlines()) <= 3


def test_csv_rows_with_too_many_cells_are_rejected(tmp_path):
    path = tmp_path / "pool.csv"
    path.write_text("prompt,response\na,b,c\nd,e\nf\n")
    pool = read(path, skip_invalid=True)
    assert [r.reason for r in pool.rejected] == ["has 3 cells, the header 2", "field 'response' is missing or null"]
    assert [e.row.data for e in pool.examples] == [{"prompt": "d", "response": "e"}]


def test_memory_rows_of_a_wrong_type_are_rejected():
    pool = read([ROWS[0], "text", 3], skip_invalid=True)
    assert [r.reason for r in pool.rejected] == [
        "is text, not an object of fields",
        "is a number, not an object of fields",
    ]


@pytest.mark.parametrize("missing", ["pool.jsonl", "no/such/file.jsonl", "alpaca", "data/pool.csv", "./x/y"])
def test_missing_files_say_so(tmp_path, monkeypatch, missing):
    monkeypatch.chdir(tmp_path)
    message = error_of(missing)
    assert message.startswith(f"{missing}: no such file")
    assert "owner/name" in message


def test_hub_dataset_that_cannot_be_had_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    message = error_of("nobody/no-such-dataset:test")
    assert "nobody/no-such-dataset:test" in message
    assert "HF_HUB_OFFLINE" in message
    assert len(message.splitlines()) <= 3


def test_folder_that_is_no_dataset(tmp_path):
    (tmp_path / "notes.unknown").write_text("no data")
    message = error_of(tmp_path)
    assert "cannot be read as a folder of data files" in message and "one by one" in message
    assert len(message.splitlines()) <= 3


def test_no_input_a_single_mapping_and_a_file_given_twice(tmp_path):
    path = write(tmp_path / "pool.jsonl", ROWS)
    assert "No pool" in error_of()
    assert "[[row, row, ...]]" in error_of(ROWS[0])
    assert "given twice" in error_of(path, tmp_path / "." / "pool.jsonl")


def test_same_stems_are_told_apart_by_their_folders(tmp_path):
    paths = []
    for folder in ("a", "b", "c/a"):
        (tmp_path / folder).mkdir(parents=True)
        paths.append(write(tmp_path / folder / "train.jsonl", ROWS))
    paths.append(write(tmp_path / "other.v1.jsonl.gz", ROWS))
    pool = read(*paths, ROWS, ROWS)
    assert [f.name for f in pool.files] == ["a-train", "b-train", "a-train-2", "other.v1", "memory", "memory-2"]
    assert [e.index for e in pool.examples] == list(range(12))
    locations = [e.row.location for e in pool.examples]
    assert locations[0] == "a/train.jsonl, row 1"
    assert locations[6] == "other.v1.jsonl.gz, row 1"
    assert len({e.id for e in pool.examples}) == 12
