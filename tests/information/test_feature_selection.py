"""Laws of selection on features: the picks of the Gram form, whichever rows are looked at, under every limit."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spice_select import select_from_features, select_from_gram
from spice_select.information import SelectionInputError, lazy_engine, principal_gram, random_draws, random_information
from spice_select.information.choosing import choose_rows
from spice_select.information.features import ScaledFeatures, TensorFeatures
from spice_select.information.gram_engine import GramEngine
from spice_select.information.greedy import greedy
from spice_select.information.lazy_engine import LazyEngine
from spice_select.information.limits import CostLimit, GroupLimit, RowLimit
from spice_select.information.moments import moments_of, principal_directions, projected


@st.composite
def pools(draw, most_rows=60, most_dim=12):
    """Features with duplicates, zero rows, opposites and a common direction, as real gradients have."""
    rows, dim = draw(st.integers(1, most_rows)), draw(st.integers(1, most_dim))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    features = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    features += draw(st.sampled_from([0.0, 0.5, 2.0])) * torch.randn(1, dim, generator=generator, dtype=torch.float64)
    for kind in draw(st.lists(st.sampled_from(["zero", "copy", "opposite", "scaled"]), max_size=3)):
        chosen = torch.rand(rows, generator=generator) < 0.3
        first = features[:1].clone()
        factor = {"zero": 0.0, "copy": 1.0, "opposite": -1.0, "scaled": 1e-3}[kind]
        features[chosen] = first * factor if kind in ("copy", "opposite") else features[chosen] * factor
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    return features.to(dtype)


@st.composite
def problems(draw):
    features = draw(pools())
    budget = draw(st.integers(1, len(features)))
    alpha = draw(st.sampled_from([0.0, 1e-9, 0.01, 1.0, 100.0]))
    penalty = draw(st.sampled_from([0.0, 0.1, 0.5, 5.0]))
    stop_ratio = draw(st.sampled_from([None, None, 0.5, 0.9]))
    return features, budget, alpha, penalty, stop_ratio


def lazy(features, limit, alpha, penalty):
    return LazyEngine(moments_of(TensorFeatures(features)), alpha, penalty, limit.most, limit.weights)


def eager(features, limit, alpha, penalty):
    wide = features.double()
    return GramEngine(wide @ wide.T, alpha, penalty, limit.most)


@settings(max_examples=300, deadline=None)
@given(problems())
def test_looking_only_where_needed_changes_no_pick(problem):
    """The lazy engine makes the picks of the Gram form, with its gains and conflicts."""
    features, budget, alpha, penalty, stop_ratio = problem
    wide = features.double()
    expected = select_from_gram(wide @ wide.T, budget, alpha, penalty, stop_ratio)
    limit = RowLimit(budget)
    trace = greedy(lazy(features, limit, alpha, penalty), limit, stop_ratio)
    assert trace.rows == expected.indices
    assert trace.stopped_early == expected.stopped_early
    gains = torch.tensor([pick.gain for pick in trace.picks], dtype=torch.float64)
    conflicts = torch.tensor([pick.conflict for pick in trace.picks], dtype=torch.float64)
    torch.testing.assert_close(gains, expected.gain[expected.indices], rtol=1e-8, atol=1e-9 * max(1.0, alpha))
    torch.testing.assert_close(conflicts, expected.conflict[expected.indices], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("rows", "dim", "budget"), [(3000, 48, 700), (1500, 200, 600), (4000, 16, 400)])
@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_more_picks_than_directions_and_rows_beyond_the_active_set(rows, dim, budget, penalty, monkeypatch):
    """Long runs meet every path: rows that waited over d picks, folded matrices, rows that left the active set."""
    monkeypatch.setattr(lazy_engine, "_ACTIVE_BYTES", 0)
    monkeypatch.setattr(lazy_engine, "_ACTIVE_LEAST", 32)
    generator = torch.Generator().manual_seed(rows)
    spread = torch.arange(1, dim + 1, dtype=torch.float64) ** -0.5
    features = torch.randn(rows, dim, generator=generator, dtype=torch.float64) * spread + 0.2 * spread
    features[rows // 2 : rows // 2 + 50] = features[:50]
    alpha = 1.0 / float(features.square().sum(dim=1).mean())
    limit = RowLimit(budget)
    picks = greedy(lazy(features, limit, alpha, penalty), limit).rows
    assert picks == greedy(eager(features, limit, alpha, penalty), limit).rows
    found = choose_rows(moments_of(TensorFeatures(features)), limit, alpha, penalty, None)
    expected = select_from_gram(features @ features.T, budget, alpha, penalty)
    torch.testing.assert_close(found.gain, expected.gain, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.conflict, expected.conflict, rtol=1e-7, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(problems())
def test_the_record_is_that_of_the_gram_form(problem):
    """U, curvature, the certificate, and the values of the rows left out."""
    features, budget, alpha, penalty, stop_ratio = problem
    wide = features.double()
    expected = select_from_gram(wide @ wide.T, budget, alpha, penalty, stop_ratio)
    found = select_from_features(features, budget, alpha, penalty, stop_ratio)
    assert found.indices == expected.indices and found.stopped_early == expected.stopped_early
    near = {"rtol": 1e-7, "atol": 1e-8 * max(1.0, alpha)}
    for name in ("gain", "base", "epsilon", "conflict", "score"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), **near)
    assert found.information == pytest.approx(expected.information, rel=1e-8, abs=1e-9)
    # Eigenvalues of K resolve rows of a millionth of the largest norm (1e-12 in K) to about four digits.
    assert found.curvature == pytest.approx(expected.curvature, abs=2e-3)
    assert found.certificate.bound == pytest.approx(expected.certificate.bound, rel=1e-6, abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(
    pools(most_rows=9, most_dim=4), st.integers(1, 4), st.sampled_from([0.1, 1.0, 30.0]), st.sampled_from([0.0, 0.5])
)
def test_the_certificate_bounds_every_subset(features, budget, alpha, penalty):
    limit = RowLimit(min(budget, len(features)))
    rows = TensorFeatures(features)
    selection = choose_rows(moments_of(rows), limit, alpha, penalty, None)
    subsets = itertools.combinations(range(len(features)), limit.most)
    assert selection.certificate.bound >= best_information(features, alpha, subsets) - 1e-9


def best_information(features, alpha, subsets):
    gram = alpha * (features.double() @ features.double().T)
    return max(float(torch.linalg.slogdet(torch.eye(len(s), dtype=torch.float64) + gram[list(s)][:, list(s)]).logabsdet)
               for s in subsets)  # fmt: skip


@st.composite
def grouped(draw):
    features = draw(pools(most_rows=9, most_dim=4))
    groups = torch.tensor(draw(st.lists(st.integers(0, 2), min_size=len(features), max_size=len(features))))
    sizes = [int((groups == g).sum()) for g in range(3)]
    floors = [draw(st.integers(0, min(2, size))) for size in sizes]
    ceilings = [draw(st.integers(floor, 4)) for floor in floors]
    room = sum(min(c, s) for c, s in zip(ceilings, sizes, strict=True))
    if not room:
        ceilings, room = [9, 9, 9], len(features)
    most = draw(st.integers(max(1, sum(floors)), max(1, room)))
    return features, GroupLimit(most, groups, floors, ceilings)


def within(limit, subset):
    counts = [sum(int(limit.groups[i]) == g for i in subset) for g in range(3)]
    return all(f <= c <= m for f, c, m in zip(limit.floors, counts, limit.ceilings, strict=True))


def brute_force(features, alpha, penalty, addable, weighed=lambda score, _: score):
    """The greedy choice written out: every step tries every row that leaves a selection which can be completed."""
    chosen: list[int] = []
    wide = features.double()
    while True:
        best = None
        for row in range(len(wide)):
            if row in chosen or not addable([*chosen, row]):
                continue
            reached = best_information(wide, alpha, [chosen]) if chosen else 0.0
            gain = best_information(wide, alpha, [[*chosen, row]]) - reached
            mean = wide[chosen].mean(dim=0) if chosen else torch.zeros_like(wide[0])
            cosine = float(wide[row] @ mean / (wide[row].norm() * mean.norm() + 1e-8))
            value = weighed(gain - penalty * max(0.0, -cosine), row)
            if best is None or value > best[0] + 1e-9:
                best = (value, row)
        if best is None:
            return chosen
        chosen.append(best[1])


def generic(features):
    """Rows without ties or cancellation, for which brute force in floating point decides as the algorithm does."""
    generator = torch.Generator().manual_seed(len(features))
    return features.double() + torch.randn(features.shape, generator=generator, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(grouped(), st.sampled_from([0.0, 0.4]))
def test_quotas_are_kept_and_the_choice_is_the_greedy_one(problem, penalty):
    features, limit = problem
    features = generic(features)
    complete = [s for s in itertools.combinations(range(len(features)), limit.most) if within(limit, s)]
    completable = {
        frozenset(part) for s in complete for r in range(len(s) + 1) for part in itertools.combinations(s, r)
    }
    expected = brute_force(features, 1.0, penalty, lambda s: frozenset(s) in completable)
    for engine in (lazy, eager):
        picks = greedy(engine(features, limit, 1.0, penalty), limit).rows
        assert picks == expected and within(limit, picks) and len(picks) == limit.most
    rows = TensorFeatures(features)
    bound = choose_rows(moments_of(rows), limit, 1.0, penalty, None).certificate.bound
    assert bound >= best_information(features, 1.0, complete) - 1e-9


@settings(max_examples=60, deadline=None)
@given(pools(most_rows=8, most_dim=4), st.data())
def test_a_budget_of_cost_is_kept_and_the_choice_is_the_greedy_one(features, data):
    features = generic(features)
    costs = torch.tensor(data.draw(st.lists(st.integers(1, 9), min_size=len(features), max_size=len(features))))
    budget = data.draw(st.integers(int(costs.min()), int(costs.sum()) + 3))
    penalty = data.draw(st.sampled_from([0.0, 0.4]))
    limit = CostLimit(costs.double(), budget)
    share = costs.min() / costs
    expected = brute_force(
        features, 1.0, penalty, lambda s: sum(int(costs[i]) for i in s) <= budget,
        lambda score, row: score * float(share[row] if score > 0 else 2 - share[row]),
    )  # fmt: skip
    assert greedy(lazy(features, limit, 1.0, penalty), limit).rows == expected
    rows = TensorFeatures(features)
    selection = choose_rows(moments_of(rows), limit, 1.0, penalty, None)
    subsets = [s for r in range(1, len(features) + 1) for s in itertools.combinations(range(len(features)), r)
               if sum(int(costs[i]) for i in s) <= budget]  # fmt: skip
    assert selection.certificate.bound >= best_information(features, 1.0, subsets) - 1e-9


@pytest.mark.parametrize(
    ("arguments", "clue"),
    [
        ((torch.zeros(3), 1, 1.0), "n x d"),
        ((torch.zeros(0, 3), 1, 1.0), "n x d"),
        ((torch.zeros(3, 2, dtype=torch.bool), 1, 1.0), "real"),
        (([[1.0, 2.0], [3.0]], 1, 1.0), "unequal"),
        (([["a"]], 1, 1.0), "real numbers"),
        ((torch.tensor([[1.0], [math.nan]]), 1, 1.0), "row 1"),
        ((torch.full((2, 2), 1e200, dtype=torch.float64), 1, 1.0), "row 0"),
        ((torch.ones(3, 2), 4, 1.0), "features hold 3"),
        ((torch.ones(3, 2), 0, 1.0), "budget"),
        ((torch.ones(3, 2), 1, -1.0), "alpha"),
        ((torch.ones(3, 2), 1, 1e308), "overflows"),
        ((torch.ones(3, 2), 1, 1.0, -1.0), "penalty"),
        ((torch.ones(3, 2), 1, 1.0, 0.1, 2.0), "stop_ratio"),
    ],
)
def test_what_cannot_be_used_is_named(arguments, clue):
    with pytest.raises(SelectionInputError, match=clue):
        select_from_features(*arguments)


@pytest.mark.parametrize(
    ("make", "clue"),
    [
        (lambda: GroupLimit(2, torch.tensor([0, 1]), [2, 0], [2, 2]), "it has 1 rows"),
        (lambda: GroupLimit(2, torch.tensor([0, 1]), [1, 0], [0, 2]), "floor <= ceiling"),
        (lambda: GroupLimit(2, torch.tensor([0, 1]), [0, 0], [1, 0]), "ceilings leave 1"),
        (lambda: GroupLimit(1, torch.tensor([0, 1]), [1, 1], [1, 1]), "floors need 2"),
        (lambda: CostLimit(torch.tensor([3.0, 4.0]), 2.0), "cheapest row costs 3"),
        (lambda: CostLimit(torch.tensor([0.0, 4.0]), 2.0), "above 0"),
    ],
)
def test_limits_that_no_selection_meets(make, clue):
    with pytest.raises(SelectionInputError, match=clue):
        make()


@settings(max_examples=60, deadline=None)
@given(pools(), st.integers(1, 20), st.sampled_from([0.0, 0.5]), st.sampled_from([0.01, 1.0]), st.data())
def test_given_rows_count_as_selected_first(features, held, penalty, alpha, data):
    """Choosing beside given rows goes on as a selection that had picked them, in any order, would."""
    features = features.double()
    size = len(features)
    given_features = torch.randn(
        held, features.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(held)
    )
    budget = data.draw(st.integers(1, size))
    rows, before = TensorFeatures(features), TensorFeatures(given_features)
    found = choose_rows(moments_of(rows), RowLimit(budget), alpha, penalty, None, before)
    joint = torch.cat([features, given_features])
    limit = RowLimit(size + held)
    engine = eager(joint, limit, alpha, penalty)
    for row in range(size, size + held):
        engine.take(row, -math.inf)
    expected = greedy(engine, RowLimit(budget))
    assert found.indices == expected.rows
    torch.testing.assert_close(
        found.gain[found.indices],
        torch.tensor([pick.gain for pick in expected.picks], dtype=torch.float64),
        rtol=1e-7,
        atol=1e-9,
    )
    first = gains_beside(features, [given_features] * size, alpha)
    rest = [torch.cat([features[torch.arange(size) != row], given_features]) for row in range(size)]
    shares = gains_beside(features, rest, alpha)[first > 0] / first[first > 0]
    assert found.curvature == pytest.approx(max([0.0, *(1 - shares).tolist()]), abs=1e-5)


def gains_beside(features, selected, alpha):
    """D_x(S) of each row, S being that row's own entry of `selected`; no difference of large numbers."""
    unit = torch.eye(features.shape[1], dtype=torch.float64)
    inner = [alpha * g @ torch.linalg.solve(unit + alpha * s.T @ s, g) for g, s in zip(features, selected, strict=True)]
    return torch.stack(inner).log1p()


@settings(max_examples=60, deadline=None)
@given(pools(), st.integers(1, 12))
def test_principal_directions_give_the_cut_gram_matrix(features, rank):
    rows = TensorFeatures(features)
    if rank >= min(features.shape):
        return
    known = moments_of(rows)
    cut = projected(rows, principal_directions(known, rank)).block(0, len(features))
    wide = features.double()
    scale = float(known.squared_norms.max()) + 1e-30
    values = known.spectrum.values.flip(0)
    if values[rank - 1] - values[rank] > 1e-6 * values[0]:  # else the subspace is not determined
        torch.testing.assert_close(
            cut @ cut.T / scale, principal_gram(wide @ wide.T, rank).matrix / scale, rtol=0, atol=1e-6
        )


def test_scaling_is_applied_as_rows_are_read():
    features = torch.randn(7, 3)
    factors = torch.arange(7, dtype=torch.float64)
    scaled = ScaledFeatures(TensorFeatures(features), factors)
    expected = features.double() * factors[:, None]
    assert torch.equal(scaled.block(2, 6), expected[2:6])
    assert torch.equal(scaled.take(torch.tensor([6, 0, 3])), expected[[6, 0, 3]])


@pytest.mark.parametrize("budget", [1, 3, 9])
def test_random_information_is_that_of_the_gram_form(budget):
    features = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    by_gram = random_information(features @ features.T, budget, 0.7, 5, torch.Generator().manual_seed(1))
    by_features = random_draws(
        TensorFeatures(features), RowLimit(budget), range(budget), 0.7, 5, torch.Generator().manual_seed(1)
    ).mean()
    assert by_features == pytest.approx(by_gram, rel=1e-10)
