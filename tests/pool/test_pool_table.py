"""A pool that is read row by row into a file is the pool that is held whole, and leaves nothing behind."""

import gc
import gzip
import json
import os
import resource
import tempfile
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oracles.pool_families import tokenizer_of
from oracles.whole_pool import whole_pool
from spice_select.errors import PoolError, SpiceSelectError, TemplateError
from spice_select.pool.encoding import Encoded
from spice_select.pool.examples import PoolOptions, read_pool
from spice_select.pool.formats import FORMATS, Layout
from spice_select.pool.messages import Conversation
from spice_select.pool.reading import ChatRow
from spice_select.pool.table import TableWriter

GOOD = {"prompt": "Q", "response": "A"}
TEXT = st.sampled_from(["", " ", "What is 12 + 30?", "é, 🙂\n", "fox " * 40, '"<|im_end|>"'])
ID = st.one_of(st.none(), st.integers(0, 2), st.sampled_from(["a", "a-2", "", "one-1"]))
PLAIN = st.fixed_dictionaries(
    {"prompt": TEXT, "response": TEXT}, optional={"id": ID, "source": ID, "extra": st.just([1.5])}
)
CHAT = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": TEXT})
        )
    }
)
LINE = st.one_of(PLAIN, CHAT).map(json.dumps) | st.sampled_from(["", "{", "[1]"])
INPUT = st.lists(LINE, max_size=6) | st.lists(PLAIN.map(json.dumps), min_size=1, max_size=6)


def outcome(read, inputs, options, family):
    """All that reading gives, or the error that it ends in."""
    try:
        rows, rejected, files = read(inputs, tokenizer_of(family), options)
    except SpiceSelectError as error:
        return type(error), str(error)
    return rows, rejected, files


def table_pool(inputs, tokenizer, options):
    """`read_pool` in the oracle's terms."""
    pool = read_pool(inputs, tokenizer, options)
    rows = [
        (e.id, e.row.source, e.row.location, e.row.number, e.row.data, e.conversation,
         e.input_ids.tolist(), e.trained.tolist(), e.truncated)
        for e in pool.examples
    ]  # fmt: skip
    assert [e.index for e in pool.examples] == list(range(len(rows)))
    assert pool.truncated == sum(row[-1] for row in rows)
    lines = pool.listing().lines
    assert [(x.index, x.id, x.source, x.location, x.tokens, x.trained_tokens) for x in lines] == [
        (i, row[0], row[1], row[2], len(row[6]), sum(row[7])) for i, row in enumerate(rows)
    ]
    assert pool.examples.tokens.tolist() == [len(row[6]) for row in rows]
    assert pool.examples.trained_tokens.tolist() == [e.trained_tokens for e in pool.examples]
    return rows, pool.rejected, pool.files


def oracle(inputs, tokenizer, options):
    rows, rejected, files = whole_pool(inputs, tokenizer, options)
    return [
        (r.id, r.source, r.location, r.number, r.data, r.conversation, [*r.input_ids], [*r.trained], r.truncated)
        for r in rows
    ], rejected, files  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    one=INPUT,
    other=INPUT,
    skip=st.booleans(),
    length=st.sampled_from([40, 2048]),
    columns=st.sampled_from([{}, {}, {"id": "extra"}]),
    family=st.sampled_from(["chatml", "gemma"]),
)
def test_a_pool_in_a_table_is_the_whole_pool(tmp_path, one, other, skip, length, columns, family):
    """Same rows, ids, tokens, rejections and records of files, or the same error: the first that reading all meets."""
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path, lines in zip(paths, (one, other), strict=True):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = PoolOptions(skip_invalid=skip, max_length=length, columns=columns)
    assert outcome(table_pool, paths, options, family) == outcome(oracle, paths, options, family)


def test_damage_of_an_input_is_reported_before_a_template_that_fails(tmp_path):
    """Only at the end is it known that no input is damaged."""
    system = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Q"}, GOOD_ANSWER]}
    damaged = tmp_path / "damaged.jsonl.gz"
    damaged.write_bytes(gzip.compress((json.dumps(GOOD) + "\n").encode())[:-9])
    with pytest.raises(TemplateError):
        read_pool([[system]], tokenizer_of("gemma"))
    with pytest.raises(PoolError, match="broken gzip stream"):
        read_pool([[system], damaged], tokenizer_of("gemma"))


GOOD_ANSWER = {"role": "assistant", "content": "A"}


def test_damage_further_on_is_reported_before_an_unknown_format(tmp_path):
    """The format is found from the first rows, the damage is what makes them doubtful."""
    rows = [{"text": f"{number} {os.urandom(50).hex()}"} for number in range(300)]
    path = tmp_path / "pool.jsonl.gz"
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    path.write_bytes(whole)
    with pytest.raises(PoolError, match="fit no known format"):
        read_pool([path], tokenizer_of("chatml"))
    path.write_bytes(whole[: len(whole) - 100])
    with pytest.raises(PoolError, match="broken gzip stream"):
        read_pool([path], tokenizer_of("chatml"))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """An empty folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no files without a name")
def test_a_pool_has_no_file_that_could_be_left_behind(temporary):
    """Neither in use, nor dropped, nor after an error; what it holds open is given back."""
    before = open_files()
    pool = read_pool([[GOOD] * 5], tokenizer_of("chatml"))
    assert list(temporary.iterdir()) == []
    assert [example.row.data for example in pool.examples] == [GOOD] * 5
    del pool
    with pytest.raises(PoolError, match="1 of 2"):
        read_pool([[GOOD, {**GOOD, "response": ""}]], tokenizer_of("chatml"))
    assert list(temporary.iterdir()) == []
    assert open_files() == before


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
def test_a_full_disk_is_an_error_that_says_where_to_make_room():
    """A disk that takes no more is no traceback."""
    rows = [{**GOOD, "extra": "x" * 100_000}] * 40
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, limits[1]))
    try:
        with pytest.raises(PoolError, match="kept in a temporary file") as caught:
            read_pool([rows], tokenizer_of("chatml"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "TMPDIR" in str(caught.value)


def test_no_folder_for_temporary_files_is_an_error(tmp_path, monkeypatch):
    """The folder is named by the environment, so it may not exist."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(PoolError, match="TMPDIR"):
        read_pool([[GOOD]], tokenizer_of("chatml"))


def peak_of(step: Callable[[], object]) -> int:
    """The most memory that Python's allocators hand out meanwhile."""
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def arrow_peak(step: Callable[[], object]) -> int:
    """The most memory that Arrow's allocator hands out meanwhile."""
    pool = pa.system_memory_pool()
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        step()
        return pool.max_memory()
    finally:
        pa.set_memory_pool(before)


def test_rows_are_not_in_memory_together(tmp_path):
    """Two batches of them are, of 1,024 rows each."""
    path, rows, text = tmp_path / "pool.jsonl", 3800, "x" * 20_000
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({**GOOD, "extra": text}) + "\n" for _ in range(rows))
    assert peak_of(lambda: read_pool([path], tokenizer_of("chatml"))) < 0.75 * rows * len(text)


def write(rows: int) -> None:
    """Write rows of a long text and many tokens, in batches as `read_pool` does."""
    tokens = Encoded(np.arange(500, dtype=np.int32), np.arange(500) > 200)
    layout = Layout(FORMATS[0], {})
    with TableWriter(400) as writer:
        for start in range(0, rows, 1000):
            numbers = range(start, start + 1000)
            fields = ({"text": "x" * 1000}, Conversation([]))
            writer.write(
                [(ChatRow(layout, "s", f"row {n}", n, fields[0], f"row-{n}", fields[1]), tokens) for n in numbers]
            )
        assert len(writer.table()) == rows


def test_a_row_takes_little_memory():
    """Less than 60 bytes of Python's and Arrow's allocators, whatever it holds, while ids are made unique too."""
    few, many = 2000, 12_000
    peaks = [peak(partial(write, rows)) for rows in (few, many) for peak in (peak_of, arrow_peak)]
    assert (sum(peaks[2:]) - sum(peaks[:2])) / (many - few) < 60


def test_a_part_of_a_pool_is_numbered_anew():
    """Ids, rows and tokens are those of the whole pool; places and totals are the part's own."""
    rows = [{"prompt": f"Q {n}", "response": "fox " * n} for n in range(1, 60)]
    pool = read_pool([rows], tokenizer_of("chatml"), PoolOptions(max_length=60))
    places = [3, 4, 50]
    part = pool.only(places)
    assert [example.index for example in part.examples] == [0, 1, 2]
    assert [example.id for example in part.examples] == [pool.examples[place].id for place in places]
    assert [e.input_ids.tolist() for e in part.examples] == [pool.examples[p].input_ids.tolist() for p in places]
    assert part.total_tokens == sum(len(pool.examples[place].input_ids) for place in places)
    assert part.trained_tokens == part.listing().trained_tokens == sum(e.trained_tokens for e in part.examples)
    assert (pool.truncated > 1, part.truncated) == (True, 1)
