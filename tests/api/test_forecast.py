"""Forecasts: which batches are timed, what memory there is, and what people read."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spice_select import Forecast
from spice_select.api import measuring

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 4))
def test_batches_from_the_largest_to_the_smallest_are_timed_after_the_smallest_has_run_once(lengths, width):
    proxy = SimpleNamespace(device=CPU, batches=lambda own: [[i] for i in range(len(own))])
    seen = []
    groups = [range(start, min(start + width, len(lengths))) for start in range(0, len(lengths), width)]
    per_token, tokens, memory = measuring.measure(lengths, lengths, proxy, groups, seen.append)
    assert per_token > 0 and memory > 0 and tokens == sum(lengths)
    sizes = [rows[0] for rows in seen]
    assert sizes[1] == max(lengths) and sizes[0] == sizes[-1] == min(lengths)
    assert len(seen) == 1 + min(measuring.TIMED, len(lengths))


def test_slow_batches_are_not_timed_for_long(monkeypatch):
    monkeypatch.setattr(measuring, "ENOUGH", 0.0)
    proxy, seen = SimpleNamespace(device=CPU, batches=lambda own: [[i] for i in range(len(own))]), []
    measuring.measure([5, 9, 7], [5, 9, 7], proxy, [range(3)], seen.append)
    assert seen == [[5], [9]]


def test_a_container_has_no_more_than_its_limit(monkeypatch, tmp_path):
    (tmp_path / "none").write_text("max\n")
    (tmp_path / "limit").write_text("123456789\n")
    monkeypatch.setattr(measuring, "_LIMITS", [tmp_path / "none", tmp_path / "not here"])
    assert measuring.available_memory(CPU) > 123456789
    monkeypatch.setattr(measuring, "_LIMITS", [tmp_path / "none", tmp_path / "limit"])
    assert measuring.available_memory(CPU) == 123456789


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (
            Forecast(10, 100, 50, {"gradients": 3700.0, "proxy training": 65.0}, 3 << 30, 4 << 30, 4_200_000),
            ["forecast: about 1:02:45 (gradients 1:01:40, proxy training 0:01:05), 3.0 GiB of memory, up to 4.2 MB on "
             "disk"],
        ),
        (
            Forecast(10, 100, 50, {"losses": 0.4}, 3 << 30, 2 << 30, 0, "Use less."),
            ["forecast: about 0:00:00, 3.0 GiB of memory, up to 0.0 MB on disk",
             "Only 2.0 GiB of memory are available. Use less."],
        ),
        (Forecast(10, 100, 50, {}, None, 2 << 30, 0), ["forecast: up to 0.0 MB on disk"]),
    ],
)  # fmt: skip
def test_a_forecast_in_words(found, lines):
    assert found.lines() == lines
