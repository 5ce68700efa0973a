"""Laws of the parts of a pool's table: values survive, ids become unique, and `Rows` is a list."""

import datetime as dt
import math
import zoneinfo
from collections import OrderedDict
from enum import IntEnum

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.whole_pool import unique_names
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.problems import MAX_DEPTH, too_deep
from spice_select.pool.table import unique_suffixes
from spice_select.pool.values import UTF8, RowCodec


class Kind(IntEnum):
    """A value that JSON would take for another."""

    ONE = 1


TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # halves of surrogate pairs too
ZONE = st.sampled_from([None, dt.UTC, dt.timezone(dt.timedelta(hours=-3)), zoneinfo.ZoneInfo("Europe/Berlin")])
JSON = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
OTHER = st.one_of(
    st.dates(),
    st.datetimes(timezones=ZONE),
    st.times(timezones=ZONE),
    st.datetimes().map(lambda moment: moment.replace(fold=1)),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.binary(max_size=9),
    st.sampled_from([Kind.ONE, np.float64(0.5), np.str_("text"), {1, 2}, OrderedDict(a=1), object(), 1j]),
)


def nested(leaves):
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(TEXT, inner, max_size=3)
            | st.dictionaries(st.integers() | st.booleans() | st.none() | TEXT, inner, max_size=3)
        ),
        max_leaves=6,
    )


def same(one, other) -> bool:
    """Equal, of the same types, in the same order; a number that is none equals itself."""
    if type(one) is not type(other):
        return False
    if type(one) is dict:
        return same(list(one.items()), list(other.items()))
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if type(one) is float:
        zeros = math.copysign(1, one) == math.copysign(1, other)
        return (one == other and zeros) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dt.datetime | dt.time):
        return one == other and (one.fold, one.tzinfo) == (other.fold, other.tzinfo)
    return one == other


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.dictionaries(TEXT, nested(JSON) | nested(JSON | OTHER), max_size=4), max_size=4))
def test_every_value_survives(rows):
    """Whatever a row holds comes back equal and of the same type: JSON's values, Parquet's, and any object."""
    codec = RowCodec()
    encoded = [codec.encode(row) for row in rows]
    assert all(same(codec.decode(data), row) for data, row in zip(encoded, rows, strict=True))


@pytest.mark.parametrize("leaf", ["text", b"bytes"])
def test_rows_as_deep_as_rows_may_be_survive(leaf):
    """Recursion reaches the limit on nesting, for JSON's own types and others; deeper rows are refused before."""
    row = {"deep": leaf}
    for _ in range(MAX_DEPTH // 2):
        row = {"deep": [row]}
    assert not too_deep(row) and too_deep({"deep": [row]})
    codec = RowCodec()
    assert codec.decode(codec.encode(row)) == row


def test_objects_that_stay_are_held_once():
    """A zone or a class that every row shares takes no memory a row."""
    codec, zone = RowCodec(), zoneinfo.ZoneInfo("Asia/Tokyo")
    rows = [{"at": dt.datetime(2026, 1, day, tzinfo=zone)} for day in range(1, 29)]
    assert len({codec.encode(row)[-30:].split(b"object")[1] for row in rows}) == 1


NAMES = st.lists(st.sampled_from(["a", "a-2", "a-3", "a-2-2", "b", "b-2", "", "-2", "é"]) | TEXT, max_size=25)


@settings(max_examples=300, deadline=None)
@given(names=NAMES, chunk=st.integers(1, 26))
def test_ids_are_those_of_a_set_of_all(names, chunk):
    """Whatever batches the rows came in, the ids are the oracle's."""
    chunks = [[name.encode(*UTF8) for name in names[start : start + chunk]] for start in range(0, len(names), chunk)]
    suffixes = unique_suffixes(pa.chunked_array(chunks, pa.large_binary()))
    found = [f"{name}-{suffix}" if suffix else name for name, suffix in zip(names, suffixes.tolist(), strict=True)]
    assert found == unique_names(names)


@given(
    count=st.integers(0, 2100),
    index=st.slices(2100) | st.integers(-2200, 2200),
)
def test_rows_are_a_list(count, index):
    """Every index and slice gives what a list gives, errors included, and passing over all gives all."""
    column = np.zeros(count, np.int32)
    rows, plain = Rows(column, column, lambda start, stop: list(range(start, stop))), list(range(count))
    assert list(rows) == plain
    if isinstance(index, int) and not -count <= index < count:
        with pytest.raises(IndexError):
            rows[index]
    else:
        assert rows[index] == plain[index]
