"""Exhausted memory becomes an error that says what was being done and what helps."""

import numpy as np
import pytest
import torch

from spice_select.errors import ModelError
from spice_select.gradients.memory import explain_out_of_memory


def _cuda():
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("attempt", [lambda: torch.empty(1 << 45), lambda: np.empty(1 << 45), _cuda])
def test_exhausted_memory_of_every_allocator_is_explained(attempt):
    with (
        pytest.raises(ModelError, match=r"^out of memory while fine-tuning\.\nLower it\.$"),
        explain_out_of_memory("Lower it.", "fine-tuning"),
    ):
        attempt()


def test_other_errors_pass_unchanged():
    with pytest.raises(RuntimeError, match="size mismatch"), explain_out_of_memory("Lower it."):
        raise RuntimeError("size mismatch")
