"""Laws of what a kept pool is made of: values survive, names become unique, and `Rows` is a list."""

import datetime as dt
import math
import zoneinfo
from collections import OrderedDict
from enum import IntEnum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.whole_pool import unique_names
from spice_select.pool.ids import unique_suffixes
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.values import Values


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
        return math.copysign(1, one) == math.copysign(1, other) and (
            one == other or (math.isnan(one) and math.isnan(other))
        )
    if isinstance(one, dt.datetime | dt.time):
        return one == other and (one.fold, one.tzinfo) == (other.fold, other.tzinfo)
    return one == other


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.dictionaries(TEXT, nested(JSON) | nested(JSON | OTHER), max_size=4), max_size=4))
def test_every_value_survives(rows):
    """Whatever a row holds comes back equal and of the same type: JSON's values, Parquet's, and any object."""
    values = Values()
    encoded = [values.encode(row) for row in rows]
    assert all(same(values.decode(data), row) for data, row in zip(encoded, rows, strict=True))


@pytest.mark.parametrize("depth", [100, 5000])
def test_deep_rows_survive(depth):
    """Also where JSON's own encoder gives up."""
    row = {"deep": []}
    for _ in range(depth):
        row = {"deep": [row]}
    values = Values()
    found = values.decode(values.encode(row))
    for _ in range(depth):
        [found] = found["deep"]
    assert found == {"deep": []}


def test_objects_that_stay_are_held_once():
    """A zone or a class that every row shares takes no memory a row."""
    values, zone = Values(), zoneinfo.ZoneInfo("Asia/Tokyo")
    rows = [{"at": dt.datetime(2026, 1, day, tzinfo=zone)} for day in range(1, 29)]
    assert len({values.encode(row)[-30:].split(b"object")[1] for row in rows}) == 1


NAMES = st.lists(st.sampled_from(["a", "a-2", "a-3", "a-2-2", "b", "b-2", "", "-2", "é"]) | TEXT, max_size=25)


@settings(max_examples=300, deadline=None)
@given(names=NAMES, buckets=st.sampled_from([1, 3, 1 << 62]))
def test_names_are_those_of_a_set_of_all(names, buckets):
    """Hashes decide nothing, however badly they spread: the names are the oracle's."""
    suffixes = unique_suffixes(len(names), names.__getitem__, lambda name: hash(name) % buckets)
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
