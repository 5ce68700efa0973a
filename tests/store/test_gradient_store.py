"""Laws of the store: the same bytes however it is filled, a damaged file is named and never read, rows by number."""

import hashlib
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import spice_select
from oracles import store_writer
from oracles.store_writer import features_of, write_store
from spice_select.errors import OutputError
from spice_select.files.locks import CLAIMS, claimed
from spice_select.store.layout import SHARD_ROWS, SHARD_ROWS_ON_GPU, shard_rows
from spice_select.store.reading import GradientStore, check_store

ROWS, DIM = 50, 6
WRITER = [sys.executable, store_writer.__file__]


def content(store: Path) -> dict[str, bytes]:
    """Every file of a store but the claims."""
    files = (path for path in store.rglob("*") if path.is_file() and CLAIMS not in path.parts)
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def start(store: Path, pause: float) -> subprocess.Popen[bytes]:
    paths = (Path(store_writer.__file__).parent.parent, Path(spice_select.__file__).parent.parent)
    environment = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    arguments = [*WRITER, str(store), str(ROWS), str(DIM), str(pause)]
    return subprocess.Popen(arguments, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    store = tmp_path_factory.mktemp("reference") / "store"
    assert write_store(store, ROWS, DIM) == []
    return store


@pytest.fixture(scope="module")
def whole(reference):
    return content(reference)


@pytest.fixture
def store(tmp_path):
    write_store(tmp_path / "store", ROWS, DIM)
    return tmp_path / "store"


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_byte(tmp_path, whole):
    place, moments = tmp_path / "store", random.Random(4)
    for _ in range(10):
        process = start(place, 0.15)
        deadline = time.monotonic() + 30
        while not place.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(moments.uniform(0.0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
    write_store(place, ROWS, DIM)
    for leaving in place.rglob(".spice-*.tmp"):
        leaving.unlink()  # a kill inside a write leaves its temporary file, which nobody reads
    assert content(place) == whole


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_and_a_lost_one_give_the_same_bytes(tmp_path, whole, processes):
    place = tmp_path / "store"
    running = [start(place, 0.2) for _ in range(processes)]
    while not list(place.rglob("*.safetensors")):
        time.sleep(0.02)
    running[0].kill()
    assert [process.wait() for process in running] == [-signal.SIGKILL] + [0] * (processes - 1)
    for leaving in place.rglob(".spice-*.tmp"):
        leaving.unlink()
    assert content(place) == whole


def test_rows_come_by_number(reference):
    opened = GradientStore.open(reference)
    expected = features_of(range(ROWS), DIM).bfloat16().double()
    assert (opened.rows, opened.dim) == (ROWS, DIM)
    assert torch.equal(opened.block(0, ROWS), expected)
    assert torch.equal(opened.squared_norms(), features_of(range(ROWS), DIM).double().square().sum(dim=1))
    assert [line.id for line in opened.listing.lines] == [f"row-{i}" for i in range(ROWS)]
    assert check_store(reference) == []


def test_bytes_read_are_counted(reference):
    opened = GradientStore.open(reference)
    opened.block(3, 40)
    opened.take(torch.tensor([5, 5]))
    assert opened.bytes_read == 2 * DIM * (37 + 2)


@given(st.lists(st.integers(0, ROWS - 1)), st.integers(0, ROWS), st.integers(0, ROWS))
def test_take_and_block_are_indexing(reference, rows, one, other):
    opened = GradientStore.open(reference)
    expected = features_of(range(ROWS), DIM).bfloat16().double()
    assert torch.equal(opened.take(torch.tensor(rows, dtype=torch.int64)), expected[rows])
    first, last = sorted((one, other))
    if first < last:
        assert torch.equal(opened.block(first, last), expected[first:last])


def test_another_reader_by_the_documented_format(reference):
    """docs/store.md alone: no torch, no safetensors."""
    manifest = json.loads((reference / "manifest.json").read_text())
    assert (manifest["format"], manifest["format_version"]) == ("spice-select gradient store", 3)
    rows, squares, losses = [], [], []
    for number, digest in enumerate(manifest["shards"]):
        raw = (reference / "shards" / f"{number:06d}.safetensors").read_bytes()
        assert hashlib.sha256(raw).hexdigest() == digest
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        assert json.loads(header["__metadata__"]["shard"])["first_row"] == number * manifest["shard_rows"]
        first, last = (8 + length + offset for offset in header["features"]["data_offsets"])
        upper = np.frombuffer(raw[first:last], dtype="<u2").astype(np.uint32) << 16  # bfloat16: float32's upper half
        rows.append(upper.view(np.float32).reshape(header["features"]["shape"]))
        first, last = (8 + length + offset for offset in header["squared_norms"]["data_offsets"])
        squares.append(np.frombuffer(raw[first:last], dtype="<f8"))
        first, last = (8 + length + offset for offset in header["losses"]["data_offsets"])
        losses.append(np.frombuffer(raw[first:last], dtype="<f8"))
    opened = GradientStore.open(reference)
    assert np.array_equal(np.concatenate(rows), opened.block(0, ROWS).float().numpy())
    assert np.array_equal(np.concatenate(squares), opened.squared_norms().numpy())
    assert np.array_equal(np.concatenate(losses), opened.losses().numpy())


def shard(store: Path, number: int) -> Path:
    return store / "shards" / f"{number:06d}.safetensors"


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)


def swap(store: Path) -> None:
    one, other = shard(store, 1).read_bytes(), shard(store, 2).read_bytes()
    shard(store, 1).write_bytes(other)
    shard(store, 2).write_bytes(one)


DAMAGE = {
    "truncated": (lambda store: shard(store, 3).write_bytes(shard(store, 3).read_bytes()[:-10]), "000003", True),
    "empty": (lambda store: shard(store, 3).write_bytes(b""), "000003", True),
    "deleted": (lambda store: shard(store, 0).unlink(), "000000", True),
    "swapped": (swap, "000001", True),
    "flipped": (lambda store: flip(shard(store, 2)), "000002", False),
    "table flipped": (lambda store: flip(store / "rows.parquet"), "rows.parquet", False),
    "texts gone": (lambda store: (store / "pool.parquet").unlink(), "pool.parquet", False),
    "proxy flipped": (lambda store: flip(store / "proxy.safetensors"), "proxy.safetensors", False),
    "manifest broken": (lambda store: (store / "manifest.json").write_text("{"), "manifest.json", True),
    "manifest emptied": (lambda store: (store / "manifest.json").write_text("{}"), "manifest.json", True),
    "no manifest": (lambda store: (store / "manifest.json").unlink(), "not finished", True),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_made_good(name, store, whole):
    """Opening sees what is missing, cut or out of place; `check` sees every byte; nothing is repaired.

    Filling again restores every byte once the files that it names are deleted.
    """
    damage, clue, seen_on_opening = DAMAGE[name]
    damage(store)
    damaged = content(store)
    if seen_on_opening:
        with pytest.raises(OutputError, match=clue) as caught:
            GradientStore.open(store)
        assert "again" in str(caught.value)
    if "manifest" not in name:
        assert any(clue in problem for problem in check_store(store))
    assert content(store) == damaged
    named = fill_as_advised(store)
    assert content(store) == whole and check_store(store) == []
    missing = name in ("deleted", "texts gone", "no manifest")
    assert not named if missing else any(clue in path.name for path in named)


def fill_as_advised(store: Path) -> list[Path]:
    """Fill the store, deleting each file that an error names as damaged; returns those files."""
    named = []
    while True:
        try:
            write_store(store, ROWS, DIM)
        except OutputError as error:
            assert "Delete what is damaged" in str(error)
            named.append(Path(str(error).split(": ")[0]))
            named[-1].unlink()
        else:
            return named


def test_a_shard_too_many_is_refused(store):
    shard(store, 99).write_bytes(shard(store, 0).read_bytes())
    with pytest.raises(OutputError, match="1 shards that"):
        GradientStore.open(store)
    assert any("000099" in problem for problem in check_store(store))


def test_a_store_never_mixes_settings(store):
    before = content(store)
    with pytest.raises(OutputError, match="seed \\(was 0, is 1\\)"):
        write_store(store, ROWS, DIM, seed=1)
    assert content(store) == before


def test_other_directories_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        write_store(tmp_path, ROWS, DIM)
    with pytest.raises(OutputError, match="is a file"):
        write_store(tmp_path / "thesis.txt", ROWS, DIM)
    with pytest.raises(OutputError, match="no gradient store"):
        GradientStore.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_no_room_for_a_shard_is_said_and_what_is_done_is_kept(tmp_path, whole):
    """A limit on the size of files stands for a full disk: the write fails half-way."""
    place = tmp_path / "store"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written") as caught:
            write_store(place, ROWS, DIM)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "MB" in str(caught.value) and not list((place / "shards").iterdir())
    write_store(place, ROWS, DIM)
    assert content(place) == whole


def test_a_failed_write_does_not_wait_for_what_others_compute(tmp_path, whole):
    """Two processes whose last shards both failed would otherwise wait for each other."""
    place = tmp_path / "store"
    place.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with claimed(place, "000000", wait=False) as other:
        assert other
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
        try:
            with pytest.raises(OutputError, match="cannot be written"):
                write_store(place, ROWS, DIM)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    write_store(place, ROWS, DIM)
    assert content(place) == whole


@given(st.integers(0, 10**7), st.integers(1, 1 << 20))
def test_a_gpus_shards_are_large_but_leave_enough_to_share(rows, dim):
    """On a CPU always 256 rows; on a GPU more only where 16 shards are left and their features take 256 MB at most."""
    assert shard_rows(torch.device("cpu"), rows, dim) == SHARD_ROWS
    size = shard_rows(torch.device("cuda"), rows, dim)
    assert SHARD_ROWS <= size <= SHARD_ROWS_ON_GPU
    if size > SHARD_ROWS:
        assert rows // size >= 16 and 4 * dim * size <= 1 << 28
    if rows >= 10**5 and dim <= 4096:
        assert size == SHARD_ROWS_ON_GPU
