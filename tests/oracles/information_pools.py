"""Small pools of gradients for hypothesis: duplicates, zero rows, opposite signs, low rank, wide norms."""

import numpy as np
from hypothesis import strategies as st

alphas = st.sampled_from([0.0, 1e-4, 0.03, 0.5, 1.0, 20.0, 3000.0])
penalties = st.sampled_from([0.0, 0.1, 0.5, 10.0])
stop_ratios = st.sampled_from([None, 0.01, 0.3, 0.5, 0.9, 1.0])


@st.composite
def pools(draw: st.DrawFn, max_rows: int = 7) -> np.ndarray:
    """[m, P] float64: signed multiples of a few base gradients, either small whole numbers (so that ties and
    cancellations are exact) or Gaussian (so that nothing is)."""
    rows = draw(st.integers(1, max_rows))
    width = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    distinct = draw(st.integers(1, rows))
    whole = draw(st.booleans())
    base = rng.integers(-3, 4, (distinct, width)).astype(float) if whole else rng.standard_normal((distinct, width))
    pick = rng.integers(0, distinct, rows) if draw(st.booleans()) else np.arange(rows) % distinct
    factors = draw(st.lists(st.sampled_from([1.0, 1.0, 1.0, -1.0, 0.0, 2.0, -8.0]), min_size=rows, max_size=rows))
    return base[pick] * np.array(factors)[:, None]


@st.composite
def generic_pools(draw: st.DrawFn, min_rows: int = 2, max_rows: int = 12) -> np.ndarray:
    """[m, P] Gaussian gradients with a shared direction: no ties, no zero rows."""
    rows = draw(st.integers(min_rows, max_rows))
    width = draw(st.integers(2, 16))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.standard_normal((rows, width)) + draw(st.sampled_from([0.0, 0.5])) * rng.standard_normal(width)


def gram_of(vectors: np.ndarray) -> np.ndarray:
    """K_ij = <g_i, g_j>."""
    return vectors @ vectors.T
