"""Quotas by source as users write them, against the shares that they say."""

from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spice_select.config import resolve
from spice_select.errors import ConfigError
from spice_select.information import GroupLimit
from spice_select.pool.types import Line
from spice_select.schedule.budget import limit_of

sizes = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 40), min_size=1)


def limits(quota, rows, budget):
    """Lower and upper number of rows by source."""
    lines = [Line(n, str(n), source, "", 2, 1) for source, count in rows.items() for n in range(count)]
    config = resolve({}, {"quota": quota, "budget": budget, "candidates": "all"})
    found = limit_of(config, lines)
    assert isinstance(found, GroupLimit) and found.most == budget
    return dict(zip(sorted(rows), zip(found.floors, found.ceilings, strict=True), strict=True))


@given(sizes, st.data())
def test_proportional_quotas_keep_every_source_s_share(rows, data):
    """Between the share's neighbours in whole rows, so that a choice within them always exists."""
    total = sum(rows.values())
    budget = data.draw(st.integers(1, total))
    found = limits("proportional", rows, budget)
    for source, (low, high) in found.items():
        share = budget * rows[source] / total
        assert low == floor(share + 1e-9) and high == ceil(share - 1e-9)
    assert sum(low for low, _ in found.values()) <= budget <= sum(high for _, high in found.values())


def test_one_source_has_its_own_quota_and_the_others_keep_theirs():
    rows = {"chats": 20, "code": 60, "facts": 120}
    assert limits({"*": "keep", "chats": "1.."}, rows, 20) == {"chats": (1, 20), "code": (6, 6), "facts": (12, 12)}
    assert limits({"code": "keep"}, rows, 20) == {"chats": (0, 20), "code": (6, 6), "facts": (0, 20)}
    assert limits({"*": "..50%"}, rows, 20) == dict.fromkeys(rows, (0, 10))


@pytest.mark.parametrize("quota", ["keep", "proportionally", {"a": "kept"}, {"*": ""}])
def test_what_is_no_quota_is_refused(quota):
    with pytest.raises(ConfigError, match="quota"):
        resolve({}, {"quota": quota, "candidates": "all"})
