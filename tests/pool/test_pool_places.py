"""Where pools lie: packed files, shards, folders from the hub, standard input, addresses."""

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracles.pool_families import tokenizer_of
from spice_select.errors import PoolError
from spice_select.pool.examples import PoolOptions, read_pool

ROWS = [{"prompt": f"Q{n}", "response": f"A{n}"} for n in range(6)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def read(*inputs):
    return read_pool(list(inputs), tokenizer_of("chatml"), PoolOptions())


def answers(pool):
    return [example.row.data["response"] for example in pool.examples]


PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("kind", [".jsonl", ".jsonlines", ".ndjson", ".json"])
def test_packed_text(tmp_path, ending, kind):
    text = json.dumps(ROWS) if kind == ".json" else LINES
    path = tmp_path / f"pool{kind}{ending}"
    path.write_bytes(PACKED[ending](text.encode()))
    assert answers(read(path)) == [row["response"] for row in ROWS]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(PoolError, match=r"broken .* stream"):
        read(path)


def test_zstandard(tmp_path):
    path = tmp_path / "pool.jsonl.zst"
    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as stream:
        stream.write(LINES.encode())
    assert answers(read(path)) == [row["response"] for row in ROWS]


def test_a_packed_file_without_its_ending_is_named(tmp_path):
    (tmp_path / "pool.jsonl").write_bytes(gzip.compress(LINES.encode()))
    with pytest.raises(PoolError, match=r"is packed with gzip"):
        read(tmp_path / "pool.jsonl")


@pytest.mark.parametrize("maker", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_files_and_streams(tmp_path, maker):
    table = pa.Table.from_pylist(ROWS)
    with maker(str(tmp_path / "pool.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert answers(read(tmp_path / "pool.arrow")) == [row["response"] for row in ROWS]


def test_shards_of_a_pattern_are_one_source(tmp_path):
    for number in range(3):
        pq.write_table(
            pa.Table.from_pylist(ROWS[2 * number : 2 * number + 2]), tmp_path / f"train-0000{number}.parquet"
        )
    pool = read(str(tmp_path / "train-*.parquet"))
    assert answers(pool) == [row["response"] for row in ROWS]
    assert {line.source for line in pool.lines} == {"train"}
    with pytest.raises(PoolError, match="no such file"):
        read(str(tmp_path / "test-*.parquet"))


def test_a_folder_from_the_hub_is_read_as_its_card_says(tmp_path):
    repo = tmp_path / "repo"
    for config in ("main", "other"):
        (repo / config).mkdir(parents=True)
        (repo / config / "train.jsonl").write_text(LINES if config == "main" else LINES.replace("A", "B"))
    configs = "".join(
        f"- config_name: {c}\n  data_files:\n  - split: train\n    path: {c}/train.jsonl\n" for c in ("main", "other")
    )
    (repo / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(PoolError, match=r"(?s)main.*other.*CONFIG:SPLIT"):
        read(repo)
    assert answers(read(f"{repo}:other:train")) == [row["response"].replace("A", "B") for row in ROWS]
    (repo / "README.md").unlink()
    (repo / "other" / "train.jsonl").unlink()
    assert answers(read(repo)) == [row["response"] for row in ROWS]


def test_a_saved_dataset_is_still_a_folder_of_its_own_kind(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert answers(read(tmp_path / "saved")) == [row["response"] for row in ROWS]


def test_an_address_is_read_through_fsspec(tmp_path):
    (tmp_path / "pool.jsonl").write_text(LINES)
    assert answers(read(f"file://{tmp_path / 'pool.jsonl'}")) == [row["response"] for row in ROWS]
    with pytest.raises(PoolError, match=r"(?s)nothing://x/pool.jsonl: cannot be read.*Check the address"):
        read("nothing://x/pool.jsonl")


def test_standard_input():
    code = (
        "from oracles.pool_families import tokenizer_of\n"
        "from spice_select.pool.examples import read_pool\n"
        "print(len(read_pool(['-'], tokenizer_of('chatml')).examples))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=LINES,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=True,
    )
    assert done.stdout.strip() == "6"


def test_joined_files(tmp_path):
    """A byte order mark inside is ignored; two rows on one line are named, with the cause."""
    (tmp_path / "marked.jsonl").write_bytes(LINES.encode() + b"\xef\xbb\xbf" + LINES.encode())
    assert len(read(tmp_path / "marked.jsonl").examples) == 12
    (tmp_path / "glued.jsonl").write_text(LINES.rstrip("\n") + LINES)
    with pytest.raises(PoolError, match="a line break is missing between files"):
        read(tmp_path / "glued.jsonl")
