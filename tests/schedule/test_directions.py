"""The certificate covers the directions that rows are chosen by; U in all directions stands beside it."""

import pytest
import torch

from spice_select.config import RunConfig
from spice_select.schedule.pick_in_pool import pick_in_pool
from spice_select.schedule.pools import CandidatePool

ROWS = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.9]], dtype=torch.float64)


def measured(**options):
    config = RunConfig(scale="none", fisher_alpha=1.0, fisher_alpha_mode="absolute", penalty=0.0, **options)
    record = pick_in_pool(CandidatePool(0, [0, 1, 2], 2), ROWS @ ROWS.T, [1, 1, 1], config, 0.0)
    return record.picks, record.measures


def test_the_best_pair_in_one_direction_is_not_the_best_in_all():
    """In the first direction alone the certificate is 100 %; in both, rows 0 and 2 hold far more than rows 0 and 1."""
    picks, measures = measured()
    assert picks == [0, 1] and measures.certificate == pytest.approx(1.0)
    both = measures.all_directions
    assert both.information == pytest.approx(torch.log(torch.tensor(9.0)).item())
    best = torch.log(torch.tensor(5.0 * (1 + 1.9**2))).item()
    assert both.greedy_information == pytest.approx(best) and both.information / best == pytest.approx(0.70, abs=0.005)


def test_a_choice_in_all_directions_needs_no_second_figure():
    picks, measures = measured(directions="all")
    assert picks == [0, 2] and measures.all_directions is None
