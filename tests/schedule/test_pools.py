"""The cut into candidate pools: every row once, the budget met exactly, reproducible by seed."""

from hypothesis import given
from hypothesis import strategies as st

from spice_select.schedule.pools import cut_cycles, cut_pools, update_order, warm_up_rows


@given(n=st.integers(1, 700), size=st.integers(1, 200), share=st.floats(0.001, 1.0), seed=st.integers(0, 99))
def test_pools_partition_the_rows_and_quotas_meet_the_budget(n, size, share, seed):
    budget = max(1, int(n * share))
    pools = cut_pools(n, size, budget, seed)
    assert sorted(row for pool in pools for row in pool.rows) == list(range(n))
    assert sum(pool.quota for pool in pools) == budget
    for pool in pools:
        assert 0 <= pool.quota <= len(pool.rows)
        assert abs(pool.quota - budget * len(pool.rows) / n) < 1, "a pool's share is its size's, up to rounding"
    assert [len(pool.rows) for pool in pools[:-1]] == [size] * (len(pools) - 1)


def test_the_papers_numbers():
    """m = 120 and 10 % give k = 12; 1,000 rows leave a last pool of 40 with 4."""
    assert [pool.quota for pool in cut_pools(1000, 120, 100, 0)] == [12] * 8 + [4]


@given(n=st.integers(2, 300), seed=st.integers(0, 99))
def test_the_seed_decides_the_shuffle(n, seed):
    assert cut_pools(n, 50, 1, seed) == cut_pools(n, 50, 1, seed)


def test_seeds_differ():
    assert cut_pools(100, 50, 10, 0)[0].rows != cut_pools(100, 50, 10, 1)[0].rows


@given(n=st.integers(1, 500), size=st.integers(1, 60), every=st.integers(1, 12) | st.just("never"))
def test_cycles_keep_the_pools_in_order(n, size, every):
    pools = cut_pools(n, size, 1, 0)
    cycles = cut_cycles(pools, every)
    assert [pool for cycle in cycles for pool in cycle] == pools
    assert len(cycles) == (1 if every == "never" else -(-len(pools) // every))


@given(n=st.integers(1, 50), wanted=st.integers(0, 200), seed=st.integers(0, 99))
def test_warm_up_rows_are_even(n, wanted, seed):
    rows = warm_up_rows(n, wanted, seed)
    assert len(rows) == wanted and set(rows) <= set(range(n))
    counts = [rows.count(row) for row in range(n)]
    assert max(counts) - min(counts) <= 1


def test_update_order_is_a_permutation_that_depends_on_the_cycle():
    picks = list(range(100, 160))
    assert sorted(update_order(picks, 0, 1)) == picks
    assert update_order(picks, 0, 1) != update_order(picks, 0, 2)
