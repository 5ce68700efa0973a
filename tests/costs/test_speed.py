"""Forecasts: exact where time and memory follow the law that they assume, and what they say to people."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.gradient_oracle import random_examples, tiny_proxy
from spice_select.costs.forecast import Forecast, clock, in_turn
from spice_select.costs.memory import PeakMemory, obtainable_bytes
from spice_select.costs.speed import PassCost, fit, measure_speed, timed_share
from spice_select.schedule.forecast import all_passes

CPU = torch.device("cpu")


@given(st.floats(0, 5), st.floats(1e-3, 5), st.lists(st.integers(1, 99), min_size=2, max_size=5, unique=True))
def test_times_that_follow_the_law_give_it_back(per_pass, per_cost, costs):
    speed = fit(costs, [per_pass + per_cost * cost for cost in costs])
    assert speed.seconds([7, 150]) == pytest.approx(2 * per_pass + 157 * per_cost, rel=1e-6)


@given(st.lists(st.tuples(st.integers(1, 99), st.floats(0, 9)), min_size=1, max_size=5))
def test_times_that_do_not_follow_it_still_give_no_negative_part(points):
    speed = fit([cost for cost, _ in points], [seconds for _, seconds in points])
    assert speed.per_pass >= 0 and speed.per_cost >= 0


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_times_are_never_negative_and_the_largest_batch_warms_up(sizes):
    seen = []
    speed = measure_speed(seen.append, [range(size) for size in sizes], sizes, CPU)
    assert speed.per_pass >= 0 and speed.per_cost >= 0
    assert len(seen[0]) == max(sizes)
    assert timed_share(sizes) == pytest.approx(sum(map(len, seen)) / sum(sizes))


def test_layers_that_do_not_fit_together_take_a_pass_each():
    """As many passes over a pool as `pool_gram` makes; one batch holds nothing, so one pass does."""
    proxy = tiny_proxy("llama")
    batches = [[0, 1], [2]]
    assert all_passes(batches, proxy, 1 << 40, torch.float32) == batches
    assert all_passes(batches, proxy, 1, torch.float32) == batches * len(proxy.layers)
    assert all_passes([[0, 1, 2]], proxy, 1, torch.float32) == [[0, 1, 2]]
    largest = max(sum(f.weight.numel() for f in layer.factors.values()) for layer in proxy.layers.values())
    assert len(all_passes(batches, proxy, 3 * 2 * largest, torch.bfloat16)) <= len(
        all_passes(batches, proxy, 3 * 2 * largest, torch.float32)
    )


def test_works_in_turn_add_up():
    one = Forecast(10, 100, 50, {"gradients": 4.0}, 7, 9, 3)
    other = Forecast(1, 2, 1, {"gradients": 1.0, "losses": 2.0}, 8, None, 3)
    both = in_turn([one.times(2.5), other, Forecast(1, 1, 1, None, None, None, 0)], 5, "wait")
    assert both == Forecast(27, 253, 127, {"gradients": 11.0, "losses": 2.0}, 8, 9, 5, "wait")


def test_costs_count_the_multiplications_of_a_forward_pass():
    """Every weight of a linear layer once a token, those of the output layer once a trained token."""
    proxy = tiny_proxy("llama")
    cost = PassCost.of(proxy.model)
    weights = sum(p.numel() for p in proxy.model.parameters())
    head = proxy.model.get_output_embeddings().weight.numel()
    assert cost.token == weights - 2 * head and cost.trained == head
    rows = random_examples(4, seed=1)
    width, trained = max(len(row.input_ids) for row in rows), sum(row.trained_tokens for row in rows)
    assert cost(rows) == pytest.approx(4 * width * (cost.token + width * cost.pair) + trained * head)


def test_the_peak_is_that_of_what_happens_after():
    held = torch.ones(1 << 26)  # 256 MB
    del held
    peak = PeakMemory(CPU)
    before = peak.bytes()
    held = torch.ones(1 << 25)  # 128 MB
    del held
    assert 120e6 < peak.bytes() - before < 200e6
    assert obtainable_bytes(CPU) > 100e6


def test_a_container_has_no_more_than_its_limit(monkeypatch, tmp_path):
    (tmp_path / "none").write_text("max\n")
    (tmp_path / "limit").write_text("123456789\n")
    monkeypatch.setattr("spice_select.costs.memory._LIMITS", [tmp_path / "none", tmp_path / "not here"])
    assert obtainable_bytes(CPU) > 123456789
    monkeypatch.setattr("spice_select.costs.memory._LIMITS", [tmp_path / "none", tmp_path / "limit"])
    assert obtainable_bytes(CPU) == 123456789


def test_a_forecast_in_words():
    told = Forecast(10, 100, 50, {"gradients": 3700.0, "proxy training": 65.0}, 3 << 30, 2 << 30, 4_200_000).lines()
    assert told[0] == (
        "forecast: about 1:02:45 (gradients 1:01:40, proxy training 1:05), 3.0 GiB of memory, up to 4.2 MB on disk"
    )
    assert "only 2.0 GiB" in told[1] and "--token-budget" in told[1]
    assert Forecast(10, 100, 50, None, None, None, 0).lines() == ["forecast: up to 0.0 MB on disk"]
    assert [clock(s) for s in (0.4, 59.6, 3600)] == ["0:00", "1:00", "1:00:00"]
