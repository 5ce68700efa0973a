"""Preconditioned gradients are autograd's, row by row, with AdamW's moments written out from the definition."""

import math

import pytest
import torch

from oracles.gradient_oracle import oracle_gradients, random_examples, tiny_proxy
from spice_select.gradients.preconditioned import Preconditioner
from spice_select.gradients.projection import Projection, project_rows
from spice_select.pool.batches import batches_within
from spice_select.proxy.update import ProxyOptimizer


def warmed_up(family):
    """A proxy after three steps, and AdamW's moments by name."""
    proxy = tiny_proxy(family)
    optimizer = ProxyOptimizer(proxy, 1e-2, 1)
    optimizer.train_on(random_examples(9, seed=8), 3)
    return proxy, optimizer.state()


def project(proxy, moments, examples, budget):
    batches = batches_within([len(example.input_ids) for example in examples], budget)
    projection = Projection(proxy.factors, 64, 0)
    return project_rows(
        proxy.model, proxy.layers, examples, batches, projection, precondition=Preconditioner(moments)
    )  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_rows_are_the_oracles_preconditioned_and_projected(family):
    proxy, moments = warmed_up(family)
    examples = random_examples(7, seed=1)
    gradients = oracle_gradients(proxy, examples)
    first, second = (
        torch.cat([moments[f"{key}.{name}"].flatten() for name in proxy.factors]).double()
        for key in ("exp_avg", "exp_avg_sq")
    )
    rows = (0.9 * first + 0.1 * gradients) / (0.999 * second + 0.001 * gradients**2 + 1e-8).sqrt()
    projection, start, expected = Projection(proxy.factors, 64, 0), 0, 0.0
    for name, layer in proxy.factors.items():
        stop = start + layer.weight.numel()
        expected = expected + projection(name, rows[:, start:stop].float())
        start = stop
    for budget in (1, 60, 1000):
        found = project(proxy, moments, examples, budget)
        scale = rows.norm(dim=1, keepdim=True).float()
        assert float(((found.features - expected) / scale).abs().max()) < 1e-4
        torch.testing.assert_close(found.squared_norms.double(), rows.square().sum(dim=1), rtol=1e-4, atol=0)


def test_losses_are_those_of_the_forward_pass():
    proxy, moments = warmed_up("llama")
    examples = random_examples(5, seed=3)
    found = project(proxy, moments, examples, 40)
    for example, loss in zip(examples, found.losses.tolist(), strict=True):
        ids = torch.tensor(example.input_ids.astype("int64"))[None]
        nll = -proxy.model(input_ids=ids).logits[0].double().log_softmax(-1)
        places = [t for t in range(1, ids.shape[1]) if example.trained[t]]
        assert loss == pytest.approx(sum(float(nll[t - 1, ids[0, t]]) for t in places) / len(places), rel=1e-5)


def test_a_square_that_overflows_is_no_small_number():
    """Divided by infinity it would be zero, and the row would pass for a usable one."""
    moments = {"exp_avg.w": torch.zeros(1, 2), "exp_avg_sq.w": torch.zeros(1, 2)}
    found = Preconditioner(moments)("w", torch.tensor([[1e25, 1.0], [1.0, 1.0]]))
    assert math.isnan(found[0, 0]) and bool(found[1].isfinite().all())
