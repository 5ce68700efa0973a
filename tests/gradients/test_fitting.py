"""Work that meets the end of memory: nothing is lost, and the order stays."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracles.gradient_oracle import random_examples, tiny_proxy
from spice_select.gradients.memory import halving
from spice_select.gradients.projection import Projection, project_rows


@given(st.lists(st.integers(), min_size=1, max_size=40), st.integers(1, 40))
def test_pieces_fit_and_nothing_is_lost(batch, room):
    pieces = []

    def work(part):
        if len(part) > room:
            raise torch.OutOfMemoryError
        pieces.append(len(part))
        return list(part)

    assert halving(work, batch) == batch
    assert max(pieces) <= room


def test_a_single_row_that_does_not_fit_fails():
    def work(part):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        halving(work, [1, 2])


def test_a_batch_that_runs_out_of_memory_half_way_leaves_no_trace():
    """The layer that fails does so after others delivered gradients: those must not be counted twice."""
    proxy, examples = tiny_proxy("llama"), random_examples(8, seed=1)
    projection = Projection(proxy.factors, 32, 0)
    expected = project_rows(proxy.model, proxy.layers, examples, [range(8)], projection)
    failing = next(iter(proxy.factors))

    class Small(Projection):
        """One that has room for three rows only, which it notices at the last layer of the pass."""

        def __call__(self, name, gradients):
            if name == failing and len(gradients) > 3:
                raise torch.OutOfMemoryError
            return super().__call__(name, gradients)

    found = project_rows(proxy.model, proxy.layers, examples, [range(8)], Small(proxy.factors, 32, 0))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
