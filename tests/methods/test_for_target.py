"""The methods that choose for a target, against their definitions written out slowly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import method_oracle as oracle
from oracles.information_pools import pools
from spice_select.information import CostLimit, GroupLimit, Limit, RowLimit, TensorFeatures, features
from spice_select.methods import FOR_TARGET, Aim, tsds

SEEDS = st.integers(0, 2**32 - 1)


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def aim(vectors, targets, limit: Limit, **more) -> Aim:
    return Aim(TensorFeatures(tensor(vectors)), [tensor(rows) for rows in targets], limit, **more)


@st.composite
def problems(draw: st.DrawFn):
    """Rows with copies and zeros, one to three targets of which some rows are zero, and a limit, in both forms."""
    vectors = np.array(draw(pools(max_rows=9)), dtype=np.float64)
    rng = np.random.default_rng(draw(SEEDS))
    targets = [rng.standard_normal((draw(st.integers(1, 4)), vectors.shape[1])) for _ in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        targets[-1] = np.vstack([targets[-1], np.zeros(vectors.shape[1]), vectors[:1]])
    rows = len(vectors)
    most = draw(st.integers(1, rows))
    kind = draw(st.sampled_from(["rows", "cost", "groups"]))
    if kind == "cost":
        costs = rng.integers(1, 9, rows).astype(float)
        budget = float(costs.min() + rng.integers(0, 30))
        return vectors, targets, CostLimit(tensor(costs), budget), {"costs": costs, "budget": budget}
    groups = rng.integers(0, 2, rows)
    first = int((groups == 0).sum())
    if kind == "groups" and 0 < first < rows:
        floor, ceiling = min(first, most) // 2, max(most - (rows - first), min(first, most), 1)
        bounds = {"floors": [floor, 0], "ceilings": [ceiling, most]}
        limit = GroupLimit(most, tensor(groups), bounds["floors"], bounds["ceilings"])
        return vectors, targets, limit, {"most": most, "groups": groups, **bounds}
    return vectors, targets, RowLimit(most), {"most": most}


@pytest.mark.parametrize("method", ["less", "rds"])
@settings(max_examples=120, deadline=None)
@given(problem=problems())
def test_picks_are_those_of_the_definition(method, problem) -> None:
    """Under every kind of limit, ties to the lower row; a target row of length zero counts for nothing."""
    vectors, targets, limit, said = problem
    assert FOR_TARGET[method](aim(vectors, targets, limit)) == getattr(oracle, method)(vectors, targets, said)


@pytest.mark.parametrize("method", sorted(FOR_TARGET))
@settings(max_examples=30, deadline=None)
@given(problem=problems(), seed=SEEDS)
def test_picks_are_within_the_limit_and_as_many_as_it_allows(method, problem, seed) -> None:
    """Each pick was allowed after those before it, and after the last one no row is."""
    vectors, targets, limit, said = problem
    picks = FOR_TARGET[method](aim(vectors, targets, limit, seed=seed))
    for place, row in enumerate(picks):
        assert row in oracle.allowed_rows(picks[:place], said, len(vectors))
    assert not oracle.allowed_rows(picks, said, len(vectors))


@pytest.mark.parametrize("method", sorted(FOR_TARGET))
def test_neither_lengths_nor_blocks_matter(method, monkeypatch) -> None:
    """Rows and target rows of any length, read in blocks of three and with few scores held, give the same picks."""
    rng = np.random.default_rng(0)
    vectors, target = rng.standard_normal((90, 8)), rng.standard_normal((6, 8))
    vectors[40:45] = vectors[3]
    expected = FOR_TARGET[method](aim(vectors, [target], RowLimit(90), seed=1))
    assert sorted(expected) == list(range(90))
    monkeypatch.setattr(features, "BLOCK_BYTES", 3 * 8 * 8)
    for held in (1 << 23, 24):
        monkeypatch.setattr(f"spice_select.methods.{method}.HELD", held)
        longer = vectors * rng.uniform(0.1, 9.0, (90, 1))
        assert FOR_TARGET[method](aim(longer, [3 * target], RowLimit(90), seed=1)) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 7), st.sampled_from([0.1, 0.5, 0.9]), SEEDS, st.booleans())
def test_spread_is_the_optimum_of_the_linear_programme(rows, width, alpha, seed, crowded) -> None:
    """The plan is feasible and no plan has a lower objective, with equal distances and densities included."""
    rng = np.random.default_rng(seed)
    distances = np.sort(
        rng.choice([0.1, 0.3, 0.7, 1.1, 1.4], (rows, width)) if crowded else rng.uniform(0, 2, (rows, width))
    )
    densities = rng.choice([1.0, 2.0, 5.0], (rows, width)) if crowded else rng.uniform(1, 5, (rows, width))
    scale = 0.3 if seed % 2 else 5.0
    found = tsds.spread(tensor(distances), tensor(1 / densities), alpha, scale)
    plan = np.zeros((rows, width))
    for row, full in enumerate(found.counts):
        plan[row, :full] = 1 / densities[row, :full] / (rows * found.s)
        plan[row, full : full + 1] += 1 / rows - plan[row].sum()
    assert plan.min() >= -1e-12
    np.testing.assert_allclose(plan.sum(axis=1), 1 / rows)
    best, _ = oracle.transport(distances, densities, alpha, scale)
    reached = alpha / scale * (distances * plan).sum() + (1 - alpha) * rows * (densities * plan).max()
    assert reached == pytest.approx(best, rel=1e-7, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 5), st.sampled_from([0.0, 0.75, 1.3]))
def test_probabilities_are_those_of_the_definition(seed, count, sigma) -> None:
    """Neighbours, densities and the optimal plan, each computed anew; several depths of neighbours give the same."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((6, 5))
    vectors = centres[rng.integers(0, 6, 70)] + 0.4 * rng.standard_normal((70, 5))
    targets = centres[rng.integers(0, 6, count)] + 0.4 * rng.standard_normal((count, 5))
    near = oracle.neighbours(vectors, targets, 7)
    fetched = sorted({row for own in near for row in own})
    rho = {row: oracle.crowding(vectors, fetched, row, 7, sigma) if sigma else 1.0 for row in fetched}
    distances = np.array([[np.linalg.norm(oracle.unit(vectors)[row] - u) for row in own]
                          for u, own in zip(oracle.unit(targets), near, strict=True)])  # fmt: skip
    densities = np.array([[rho[row] for row in own] for own in near])
    _, plan = oracle.transport(distances, densities, 0.3, 2.0)
    expected = np.zeros(70)
    for own, shares in zip(near, plan, strict=True):
        np.add.at(expected, own, shares)
    constants = {"alpha": 0.3, "C": 2.0, "sigma": sigma}
    problem = aim(vectors, [targets], RowLimit(7), constants=constants)
    with pytest.MonkeyPatch.context() as patch:
        for first in (1, 64):
            patch.setattr(tsds, "_FIRST", first)
            found = tsds.probabilities(problem, torch.cat(problem.directions))
            np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)


def test_draws_follow_the_probabilities(monkeypatch) -> None:
    """The first of many draws is each row as often as its probability says."""
    rng = np.random.default_rng(1)
    vectors, target = rng.standard_normal((80, 4)), rng.standard_normal((3, 4))
    problem = aim(vectors, [target], RowLimit(1))
    shares = tsds.probabilities(problem, torch.cat(problem.directions))
    monkeypatch.setattr(tsds, "probabilities", lambda *_: shares)
    firsts = [FOR_TARGET["tsds"](aim(vectors, [target], RowLimit(1), seed=seed))[0] for seed in range(4000)]
    counts = np.bincount(firsts, minlength=80)
    spread = 5 * np.sqrt(4000 * shares.numpy() * (1 - shares.numpy())) + 1e-9
    assert (np.abs(counts - 4000 * shares.numpy()) <= spread).all()


def test_rows_beyond_the_plan_are_the_nearest_and_a_note_says_so() -> None:
    """Rows with mass come first, in the order of the draw; then all others, by their highest cosine."""
    rng = np.random.default_rng(2)
    vectors, target, notes = rng.standard_normal((50, 4)), rng.standard_normal((2, 4)), []
    problem = aim(vectors, [target], RowLimit(50), note=notes.append)
    shares = tsds.probabilities(problem, torch.cat(problem.directions)).numpy()
    picks, reached = FOR_TARGET["tsds"](problem), int((shares > 0).sum())
    assert set(picks[:reached]) == set(np.flatnonzero(shares))
    nearness = oracle.cosines(vectors, target).max(axis=1)
    assert picks[reached:] == sorted(set(range(50)) - set(picks[:reached]), key=lambda row: -nearness[row])
    assert len(notes) == 1 and f"reaches {reached} rows" in notes[0]
    assert FOR_TARGET["tsds"](aim(vectors, [target], RowLimit(reached), note=notes.append)) == picks[:reached]
    assert len(notes) == 1


def test_copies_share_what_one_would_get() -> None:
    """Twenty copies of a row and a single row as near to the target: together the copies are as likely as the one."""
    target = np.array([[1.0, 0.0, 0.0]])
    lone, copied = np.array([0.8, 0.6, 0.0]), np.array([0.8, -0.6, 0.0])
    away = np.random.default_rng(0).standard_normal((279, 3)) * [0.01, 1, 1]
    vectors = np.vstack([lone, np.tile(copied, (20, 1)), away])
    problem = aim(vectors, [target], RowLimit(1))
    shares = tsds.probabilities(problem, torch.cat(problem.directions))
    assert float(shares[1:21].sum()) == pytest.approx(float(shares[0]), rel=1e-6)
