"""Choosing for a target: the definitions, laws of coverage, signs, and what may not matter."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oracles import target_oracle as oracle
from oracles.information_pools import generic_pools, pools
from spice_select import select_from_features, select_from_gram
from spice_select.information import (
    CostLimit,
    GroupLimit,
    RowLimit,
    SelectionInputError,
    Target,
    TargetBlocks,
    TensorFeatures,
    choose_for_target,
    moments_of,
    read_target,
    targeted,
)
from spice_select.information import target as target_module
from spice_select.information.coverage import coverage_by, steps_of, whole_coverage

ALPHAS = st.sampled_from([0.03, 0.5, 1.0, 20.0])
SEEDS = st.integers(0, 2**32 - 1)


def tensors(*arrays):
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


def pool_for(vectors, target: Target, before=None):
    """A pool as `targeted` makes it."""
    rows = TensorFeatures(torch.from_numpy(np.array(vectors)))
    checked = read_target(target, rows.dim, rows.device)
    there = None if before is None else TensorFeatures(torch.from_numpy(np.array(before)))
    return targeted(moments_of(rows), checked, there)


@st.composite
def problems(draw: st.DrawFn):
    """Rows, target rows with weights, share and rank."""
    vectors = draw(generic_pools(min_rows=3))
    rng = np.random.default_rng(draw(SEEDS))
    targets = rng.standard_normal((draw(st.integers(1, 6)), vectors.shape[1])) + 0.7 * vectors[0]
    weights = rng.uniform(0.1, 1.0, len(targets)) if draw(st.booleans()) else np.ones(len(targets))
    share = draw(st.sampled_from([1.0, 1.0, 0.8, 0.3]))
    rank = draw(st.sampled_from([None, None, 1, 2]))
    return vectors, targets, weights, share, rank


@settings(max_examples=40, deadline=None)
@given(problems(), ALPHAS, st.booleans(), SEEDS)
def test_variance_picks_are_those_of_the_dense_oracle(problem, alpha, with_given, seed):
    """tr(A M) with every inverse computed anew gives the same rows in the same order."""
    vectors, targets, weights, share, rank = problem
    before = np.random.default_rng(seed).standard_normal((3, vectors.shape[1])) if with_given else None
    budget = 1 + seed % len(vectors)
    a = oracle.metric(vectors, targets, weights, share, rank)
    against = oracle.conflicts(vectors, targets, weights, a)
    pool = pool_for(vectors, Target(targets, weights, share, "variance", rank), before)
    found = choose_for_target(pool, RowLimit(budget), alpha, 0.1, None)
    np.testing.assert_allclose(found.coverage.conflict.numpy(), against, atol=1e-6)
    expected = oracle.greedy(vectors, a, against, budget, alpha, before)
    assert len(found.indices) == budget and found.indices[: len(expected)] == expected


@settings(max_examples=40, deadline=None)
@given(problems(), ALPHAS, SEEDS)
def test_directed_picks_are_those_of_the_dense_oracle(problem, alpha, seed):
    """Log-det of A^(1/2) g, on whichever of features and Gram blocks it is computed."""
    vectors, targets, weights, share, rank = problem
    budget = 1 + seed % len(vectors)
    a = oracle.metric(vectors, targets, weights, share, rank)
    expected = oracle.directed_greedy(vectors, a, oracle.conflicts(vectors, targets, weights, a), budget, alpha)
    target = Target(targets, weights, share, "information", rank)
    found = select_from_features(vectors, budget, alpha, 0.0, target=target).indices
    assert len(found) == budget and found[: len(expected)] == expected


@settings(max_examples=40, deadline=None)
@given(problems(), ALPHAS, st.sampled_from(["variance", "information"]))
def test_gram_blocks_are_as_good_as_features(problem, alpha, rule):
    """Picks, gains, coverage and conflict depend on inner products alone."""
    vectors, targets, weights, share, rank = problem
    budget = len(vectors) // 2 + 1
    by_rows = select_from_features(vectors, budget, alpha, target=Target(targets, weights, share, rule, rank))
    blocks = (vectors @ targets.T, targets @ targets.T, weights, share, rule, rank)
    by_gram = select_from_gram(vectors @ vectors.T, budget, alpha, target=TargetBlocks(*blocks))
    assert by_gram.indices == by_rows.indices
    for name in ("picks", "whole", "random", "conflict"):
        one, other = getattr(by_gram.coverage, name), getattr(by_rows.coverage, name)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    torch.testing.assert_close(by_gram.gain, by_rows.gain, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(pools(max_rows=9), ALPHAS, SEEDS, st.booleans())
def test_coverage_is_its_definition_and_only_grows(vectors, alpha, seed, with_given):
    """Of each prefix, of the whole pool, beside given rows, with fewer and with more rows than dimensions."""
    rng = np.random.default_rng(seed)
    width = vectors.shape[1]
    targets = np.concatenate([rng.standard_normal((3, width)), vectors[:1], np.zeros((1, width))])
    before = rng.standard_normal((2, width)) if with_given else None
    moment = None if before is None else torch.from_numpy(before.T @ before)
    rows, wanted = tensors(vectors, targets)
    start = oracle.coverage(vectors, targets, [], alpha, before)
    steps = steps_of(TensorFeatures(rows), wanted, alpha, moment).numpy()
    assert (steps >= 0).all()
    for count in range(len(vectors) + 1):
        expected = oracle.coverage(vectors, targets, range(count), alpha, before)
        np.testing.assert_allclose(start + steps[:count].sum(axis=0), expected, atol=1e-9)
        assert (expected < 1.0).all() and (expected >= -1e-12).all()
    everything = oracle.coverage(vectors, targets, range(len(vectors)), alpha, before)
    for found in (
        coverage_by(TensorFeatures(rows), wanted, alpha, moment),
        whole_coverage(moments_of(TensorFeatures(rows)), wanted, alpha, moment),
    ):
        np.testing.assert_allclose(found.numpy(), everything, atol=1e-9)


def test_coverage_in_blocks_of_many_rows():
    """More rows than fit one block, in fewer dimensions than rows: the same as one factor of all."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(1300, 20, generator=generator, dtype=torch.float64)
    targets = torch.randn(4, 20, generator=generator, dtype=torch.float64)
    reached = steps_of(TensorFeatures(rows), targets, 0.3).cumsum(0)
    for count in (1, 511, 512, 513, 1300):
        expected = oracle.coverage(rows.numpy(), targets.numpy(), range(count), 0.3)
        np.testing.assert_allclose(reached[count - 1].numpy(), expected, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(problems(), ALPHAS, st.sampled_from(["variance", "information"]))
def test_certificate_bounds_every_choice(problem, alpha, rule):
    """What the picks explain of the target, and any other rows, is at most what the whole pool explains."""
    vectors, targets, weights, _, _ = problem
    found = select_from_features(vectors, 2, alpha, target=Target(targets, weights, rule=rule)).coverage
    energy = weights / weights.sum() * (targets**2).sum(axis=1)
    whole = energy @ oracle.coverage(vectors, targets, range(len(vectors)), alpha)
    picked = energy @ found.picks.numpy()
    assert found.certificate == pytest.approx(picked / whole, abs=1e-8)
    wanted = torch.from_numpy(np.ascontiguousarray(targets))
    for row in range(len(vectors)):
        alone = coverage_by(TensorFeatures(torch.from_numpy(vectors[[row]])), wanted, alpha)
        assert bool((alone <= found.whole + 1e-9).all())


@settings(max_examples=40, deadline=None)
@given(problems(), ALPHAS, st.sampled_from(["variance", "information"]))
def test_a_row_opposed_to_the_target_never_wins_by_information_alone(problem, alpha, rule):
    """Of a row and its opposite, worth the same, the one that does not oppose the target is picked first."""
    vectors, targets, weights, _, _ = problem
    both = np.concatenate([vectors, -vectors])
    found = select_from_features(both, len(both), alpha, 0.0, target=Target(targets, weights, rule=rule))
    rank, conflict = found.rank.tolist(), found.coverage.conflict
    for row in range(len(vectors)):
        against, along = (row, row + len(vectors)) if conflict[row] > conflict[row + len(vectors)] else (
            row + len(vectors), row
        )  # fmt: skip
        if conflict[against] > 1e-2:
            assert conflict[along] == 0.0 and rank[along] < rank[against]


@pytest.mark.parametrize("rule", ["variance", "information"])
def test_an_opposite_alone_is_left_to_the_end(rule):
    """Exactly opposed rows explain most and come last all the same."""
    rng = np.random.default_rng(1)
    target = rng.standard_normal((1, 8))
    rows = np.concatenate([-5 * target, 0.3 * target + 0.1 * rng.standard_normal((4, 8))])
    assert select_from_features(rows, 5, 1.0, target=Target(target, rule=rule)).indices[-1] == 0


@settings(max_examples=30, deadline=None)
@given(problems(), st.sampled_from([1e-3, 7.0, 1e4]), st.sampled_from(["variance", "information"]))
def test_units_do_not_matter(problem, factor, rule):
    """Rows and target scaled alike, alpha by the inverse square; weights and the target by anything."""
    vectors, targets, weights, share, rank = problem
    one = select_from_features(vectors, 3, 1.0, target=Target(targets, weights, share, rule, rank))
    other = select_from_features(
        factor * vectors, 3, 1.0 / factor**2, target=Target(factor * targets, 9 * weights, share, rule, rank)
    )
    assert one.indices == other.indices
    torch.testing.assert_close(one.coverage.picks, other.coverage.picks, rtol=1e-6, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(problems(), SEEDS, st.sampled_from(["variance", "information"]))
def test_order_and_rotation_do_not_matter(problem, seed, rule):
    """Rows in another order, the target's rows in another order, everything rotated."""
    vectors, targets, weights, share, rank = problem
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((vectors.shape[1],) * 2))[0]
    rows, asked = rng.permutation(len(vectors)), rng.permutation(len(targets))
    one = select_from_features(vectors, 2, 1.0, target=Target(targets, weights, share, rule, rank))
    moved = Target(targets[asked] @ turn, weights[asked], share, rule, rank)
    other = select_from_features(vectors[rows] @ turn, 2, 1.0, target=moved)
    opposed = [place for place, row in enumerate(one.indices) if one.coverage.conflict[row] > 0.999]  # all tie
    sure = min(opposed, default=2)
    assert one.indices[:sure] == [int(rows[row]) for row in other.indices[:sure]]


def test_many_picks_do_not_drift():
    """Beyond the picks after which everything is computed anew, picks are still those of the oracle."""
    rng = np.random.default_rng(5)
    vectors, targets = rng.standard_normal((290, 4)), rng.standard_normal((3, 4))
    weights = np.ones(3)
    a = oracle.metric(vectors, targets, weights, 1.0, None)
    expected = oracle.greedy(vectors, a, oracle.conflicts(vectors, targets, weights, a), 265, 1.0)
    assert len(expected) > 256
    assert select_from_features(vectors, 265, 1.0, target=targets).indices[: len(expected)] == expected


@pytest.mark.parametrize("rule", ["variance", "information"])
def test_limits_hold(rule):
    """Quotas and costs, as without a target; a quota that binds nothing changes nothing."""
    rng = np.random.default_rng(2)
    vectors, targets = rng.standard_normal((40, 10)), rng.standard_normal((4, 10))
    pool = pool_for(vectors, Target(targets, rule=rule))
    groups, costs = torch.arange(40) % 2, torch.from_numpy(rng.integers(1, 9, 40)).double()
    free = choose_for_target(pool, RowLimit(10), 1.0, 0.1, None).indices
    assert choose_for_target(pool, GroupLimit(10, groups, [0, 0], [10, 10]), 1.0, 0.1, None).indices == free
    held = choose_for_target(pool, GroupLimit(10, groups, [7, 0], [10, 10]), 1.0, 0.1, None)
    assert sum(row % 2 == 0 for row in held.indices) >= 7 and len(held.indices) == 10
    bought = choose_for_target(pool, CostLimit(costs, 20.0), 1.0, 0.1, None)
    assert float(costs[bought.indices].sum()) <= 20.0
    assert held.guarantee is bought.guarantee is None


@pytest.mark.parametrize("rule", ["variance", "information"])
def test_stops(rule):
    """Where coverage or gain is reached the choice is a prefix of the one that goes on."""
    rng = np.random.default_rng(4)
    vectors, targets = rng.standard_normal((60, 12)), rng.standard_normal((3, 12))
    pool = pool_for(vectors, Target(targets, rule=rule))
    whole = choose_for_target(pool, RowLimit(50), 1.0, 0.0, None)
    means = (whole.coverage.steps @ whole.coverage.weights).cumsum(0)
    for share in (0.3, 0.8, 0.97):
        found = choose_for_target(pool, RowLimit(50), 1.0, 0.0, None, share)
        assert found.indices == whole.indices[: len(found.indices)] and found.stopped_early
        wanted = share * whole.coverage.mean(whole.coverage.whole)
        assert means[len(found.indices) - 1] >= wanted
        assert len(found.indices) == 1 or means[len(found.indices) - 2] < wanted
    early = choose_for_target(pool, RowLimit(50), 1.0, 0.0, 0.5)
    assert early.stopped_early and early.indices == whole.indices[: len(early.indices)] and len(early.indices) < 50


def test_the_cut_keeps_the_target(monkeypatch):
    """With many dimensions rows are seen in fewer, the target's among them; the picks explain nearly as much."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.arange(1, 301) ** -0.6
    vectors = (torch.randn(90, 300, generator=generator, dtype=torch.float64) * spread).numpy()
    targets = (torch.randn(8, 300, generator=generator, dtype=torch.float64) * spread).numpy()
    alpha = 90 / (vectors**2).sum()
    exact = choose_for_target(pool_for(vectors, Target(targets)), RowLimit(30), alpha, 0.0, None)
    monkeypatch.setattr(target_module, "EXACT", 0)
    pool = pool_for(vectors, Target(targets))
    basis, wanted = pool.view.basis, torch.from_numpy(targets)
    assert basis.shape == (300, 128)
    torch.testing.assert_close(basis.T @ basis, torch.eye(128, dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(wanted @ basis @ basis.T, wanted, atol=1e-9, rtol=0)
    found = choose_for_target(pool, RowLimit(30), alpha, 0.0, None)
    torch.testing.assert_close(found.coverage.whole, exact.coverage.whole)
    assert found.coverage.certificate >= 0.97 * exact.coverage.certificate


@pytest.mark.parametrize("rule", ["variance", "information"])
def test_fewer_rows_than_dimensions_are_seen_whole(rule):
    """Rows in many dimensions give the picks of the same rows in the few dimensions that they span."""
    rng = np.random.default_rng(7)
    vectors, targets = rng.standard_normal((40, 12)), rng.standard_normal((3, 12))
    few = select_from_features(vectors, 20, 1.0, target=Target(targets, rule=rule))
    wide = np.linalg.qr(rng.standard_normal((700, 12)))[0].T
    many = select_from_features(vectors @ wide, 20, 1.0, target=Target(targets @ wide, rule=rule))
    assert few.indices == many.indices
    torch.testing.assert_close(few.coverage.steps, many.coverage.steps)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_given_rows_of_many_dimensions_are_seen_whole(seed):
    """What given rows share outside the pool and the target is no noise of each."""
    rng = np.random.default_rng(seed)
    vectors, targets = rng.standard_normal((12, 300)), rng.standard_normal((2, 300))
    shared = 3 * rng.standard_normal(300)
    before = rng.standard_normal((4, 300)) + shared
    a = oracle.metric(vectors, targets, np.ones(2), 1.0, None)
    found = choose_for_target(pool_for(vectors, Target(targets), before), RowLimit(6), 0.02, 0.1, None)
    expected = oracle.greedy(vectors, a, oracle.conflicts(vectors, targets, np.ones(2), a), 6, 0.02, before)
    assert found.indices == expected


def test_a_row_orthogonal_to_the_target_has_no_conflict():
    rng = np.random.default_rng(3)
    vectors, target = rng.standard_normal((30, 400)), np.zeros((1, 400))
    target[0, 0] = 1.0
    vectors[:10, 0] = 0.0
    turned = np.linalg.qr(rng.standard_normal((400, 400)))[0]
    pool = pool_for(vectors @ turned, Target(target @ turned))
    assert not pool.view.conflict[:10].any()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (np.zeros((2, 3)), "all zero"),
        (np.ones((2, 4)), "4 dimensions"),
        (np.full((1, 3), np.nan), "not finite"),
        (Target(np.ones((2, 3)), [1.0]), "1 weights for 2"),
        (Target(np.ones((2, 3)), [1.0, -1.0]), ">= 0"),
        (Target(np.ones((2, 3)), share=0.0), "share"),
        (Target(np.ones((2, 3)), rule="other"), "rule"),
        (Target(np.ones((2, 3)), rank=0), "rank"),
    ],
)
def test_targets_that_cannot_be_used(target, message):
    with pytest.raises(SelectionInputError, match=message):
        select_from_features(np.eye(3), 1, 1.0, target=target)


def test_blocks_that_do_not_fit():
    with pytest.raises(SelectionInputError, match="cross has shape"):
        select_from_gram(np.eye(3), 1, 1.0, target=TargetBlocks(np.ones((2, 1)), np.ones((1, 1))))


def test_a_target_outside_the_pool_explains_nothing():
    """Rows orthogonal to the target: no coverage by anything, and still a full choice."""
    rows, target = np.eye(6)[:4], np.eye(6)[4:]
    found = select_from_features(rows, 3, 1.0, target=target)
    assert len(found.indices) == 3
    assert not found.coverage.picks.any() and not found.coverage.whole.any() and found.coverage.certificate == 1.0


@given(pools(max_rows=6), SEEDS)
@settings(max_examples=40, deadline=None)
def test_awkward_pools(vectors, seed):
    """Copies, zeros, opposites: a full choice, each row once, both rules."""
    target = np.random.default_rng(seed).standard_normal((2, vectors.shape[1]))
    assume(target.any())
    for rule in ("variance", "information"):
        found = select_from_features(vectors, len(vectors), 1.0, target=Target(target, rule=rule))
        assert sorted(found.indices) == list(range(len(vectors)))
        assert torch.isfinite(found.coverage.picks).all() and 0 <= found.coverage.certificate <= 1
