"""Laws of the projection: linear, unbiased for inner products, the same whatever the batches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from oracles.gradient_oracle import FAMILIES, oracle_gradients, random_examples, tiny_proxy
from spice_select.gradients.projection import Projection, fold_of, project_rows
from spice_select.pool.batches import batches_within


def layers(*shapes):
    return {f"layer{i}": nn.Linear(width, height, bias=False) for i, (height, width) in enumerate(shapes)}


def matrix_of(projection, modules):
    """The whole P x d matrix, by projecting unit vectors one at a time."""
    parts = []
    for name, layer in modules.items():
        size = layer.weight.numel()
        parts.append(torch.cat([projection(name, row[None]) for row in torch.eye(size)]))
    return torch.cat(parts).double()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    st.integers(1, 40),
    st.integers(0, 99),
)
def test_every_coordinate_goes_to_one_place_with_a_sign(shapes, dim, seed):
    """So it is linear, it needs no matrix, and places of a fold differ by no more than one in how much they take."""
    modules = layers(*shapes)
    projection = Projection(modules, dim, seed)
    matrix = matrix_of(projection, modules)
    assert bool(((matrix != 0).sum(dim=1) == 1).all()) and set(matrix[matrix != 0].tolist()) <= {1.0, -1.0}
    for name, layer in modules.items():
        taken = (matrix_of(projection, {name: layer}) != 0).sum(dim=0).sort(descending=True).values
        fold = fold_of(dim, layer.weight.shape[1])
        assert math.gcd(fold, layer.weight.shape[1]) == 1 or fold == dim < 20
        assert dim / 2 < fold <= dim and not bool(taken[fold:].any())
        assert int(taken[0] - taken[fold - 1]) <= 1
    generator = torch.Generator().manual_seed(seed)
    blocks = {name: torch.randn(3, layer.weight.numel(), generator=generator) for name, layer in modules.items()}
    whole = sum(projection(name, block) for name, block in blocks.items())
    torch.testing.assert_close(
        whole.double(), torch.cat([*blocks.values()], dim=1).double() @ matrix, rtol=1e-5, atol=1e-5
    )


def test_inner_products_are_unbiased_and_spread_as_theory_says():
    """Over seeds: mean <g, h>, variance about (|g|^2 |h|^2 + <g, h>^2) / d, less the coordinates' own products."""
    modules, dim, draws = layers((24, 20), (8, 30)), 16, 3000
    g, h = torch.randn(2, 720, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    h = 0.6 * g + 0.8 * h
    cut = 24 * 20
    products = []
    for seed in range(draws):
        projection = Projection(modules, dim, seed)
        pair = torch.stack([g, h]).float()
        one, other = (projection("layer0", pair[:, :cut]) + projection("layer1", pair[:, cut:])).double()
        products.append(float(one @ other))
    found = torch.tensor(products, dtype=torch.float64)
    theory = float((g @ g) * (h @ h) + (g @ h) ** 2 - 2 * (g.square() * h.square()).sum()) / dim
    assert abs(float(found.mean() - g @ h)) < 4 * (theory / draws) ** 0.5, "the signs are not independent"
    assert float(found.var()) == pytest.approx(theory, rel=0.15)


@pytest.mark.parametrize("shape", [(16, 4096), (16, 2048), (8, 1536), (8, 1024), (2048, 16), (1536, 8), (576, 8)])
@pytest.mark.parametrize("dim", [1024, 1536, 4096])
@pytest.mark.parametrize("outlier", ["none", "input", "output"])
def test_the_error_is_as_promised_whatever_widths_share_with_d(shape, dim, outlier):
    """Half of |x|^2 in one input dimension, or of |dy|^2 in one output: the error stays within |g| |h| / sqrt(d)."""
    generator, factor = torch.Generator().manual_seed(sum(shape)), nn.Linear(shape[1], shape[0], bias=False)
    dy, x = (torch.randn(24, width, generator=generator) for width in shape)
    if outlier != "none":
        large = x if outlier == "input" else dy
        large[:, 7] = large.norm(dim=1)
    gradients = (dy[:, :, None] * x[:, None, :]).flatten(1)
    gradients /= gradients.norm(dim=1, keepdim=True)
    apart, errors = ~torch.eye(24, dtype=torch.bool), []
    for seed in range(8):
        features = Projection({"layer": factor}, dim, seed)("layer", gradients)
        errors.append((features @ features.T - gradients @ gradients.T)[apart].square().mean())
    assert float(torch.stack(errors).mean()) ** 0.5 < 1.1 * dim**-0.5


def projected(proxy, examples, budget, dim=64, seed=0):
    batches = batches_within([len(e.input_ids) for e in examples], budget)
    return project_rows(proxy.model, proxy.layers, examples, batches, Projection(proxy.factors, dim, seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_the_oracles_gradients_projected(family):
    proxy, examples = tiny_proxy(family), random_examples(7, seed=1)
    gradients = oracle_gradients(proxy, examples)
    features, squares, _ = projected(proxy, examples, 60)
    projection, start, expected = Projection(proxy.factors, 64, 0), 0, 0.0
    for name, layer in proxy.factors.items():
        stop = start + layer.weight.numel()
        expected = expected + projection(name, gradients[:, start:stop].float())
        start = stop
    scale = gradients.norm(dim=1, keepdim=True).float()
    assert float(((features - expected) / scale).abs().max()) < 1e-5
    torch.testing.assert_close(squares.double(), gradients.square().sum(dim=1), rtol=1e-5, atol=0)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(0, 999), st.integers(1, 200))
def test_batches_do_not_change_the_features(count, seed, budget):
    proxy, examples = tiny_proxy("llama"), random_examples(count, seed)
    one, other = projected(proxy, examples, 1)[0], projected(proxy, examples, budget)[0]
    assert float((one - other).abs().max()) <= 1e-5 * float(one.abs().max())


def test_signs_depend_on_seed_name_and_size_alone():
    modules = layers((3, 4), (5, 6))
    reversed_order = dict(reversed(modules.items()))
    block = torch.randn(2, 30)
    same = Projection(modules, 7, 3)("layer1", block)
    assert torch.equal(same, Projection(reversed_order, 7, 3)("layer1", block))
    assert not torch.equal(same, Projection(modules, 7, 4)("layer1", block))
    assert not torch.equal(same, Projection({"other": modules["layer1"]}, 7, 3)("other", block))
