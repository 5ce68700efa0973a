"""Near-duplicates: the groups that all pairs give, also where only likely pairs are looked at."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import diversity_oracle as oracle
from oracles.information_pools import pools
from spice_select.information import TensorFeatures
from spice_select.information import similar as module
from spice_select.information.similar import similar_groups


@given(pools(), st.sampled_from([0.123, 0.5, 0.9, 0.999]))
def test_groups_are_the_components_of_all_pairs(vectors, least):
    found = similar_groups(TensorFeatures(torch.from_numpy(vectors)), least)
    assert [members for members, _ in found] == oracle.groups(vectors, least)
    for members, lowest in found:
        pairs = [oracle.cosine(vectors[i], vectors[j]) for i in members for j in members if i < j]
        linked = [cosine for cosine in pairs if cosine >= least - 1e-9]
        assert any(lowest == pytest.approx(cosine) for cosine in linked)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**31))
def test_a_sketch_of_many_long_rows_loses_none(seed):
    """With long rows and several blocks: every planted pair above the bar, none below it."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((90, 4 * module.SKETCH + 1))
    for i, closeness in enumerate(np.linspace(0.85, 1.0, 30)):
        mate = rng.standard_normal(vectors.shape[1])
        unit, mate = vectors[i] / np.linalg.norm(vectors[i]), mate / np.linalg.norm(mate)
        vectors[30 + i] = closeness * unit + np.sqrt(1 - closeness**2) * mate
    vectors[-1] = 0.0
    block, module._BLOCK = module._BLOCK, 32
    try:
        found = similar_groups(TensorFeatures(torch.from_numpy(vectors)), 0.9)
    finally:
        module._BLOCK = block
    assert [members for members, _ in found] == oracle.groups(vectors, 0.9)
