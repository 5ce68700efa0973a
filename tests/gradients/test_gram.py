"""The Gram matrix from hooks equals that of gradients taken one example at a time, however the pool is batched."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import OlmoConfig, OlmoForCausalLM

from oracles.gradient_oracle import (
    FAMILIES,
    VOCABULARY,
    gram_error,
    gram_of,
    mixed_proxy,
    oracle_gradients,
    random_examples,
    tiny_proxy,
)
from spice_select.errors import ModelError
from spice_select.gradients.capture import AdaptedLayer, captured, factor_gradients
from spice_select.gradients.gram import HeldGradients, layer_groups, pool_gram
from spice_select.gradients.loss import _TokenNll, collate, response_losses
from spice_select.pool.batches import batches_within
from spice_select.proxy.lora import attach_lora, merge, merged

PLENTY = 1 << 40


def assert_same(gram, expected, relative):
    error = gram_error(gram, expected)
    assert error < relative, f"off by {error:.2e} of |g_i||g_j|: padding, loss mask or a module is wrong"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_gram_equals_the_one_at_a_time_oracle(family, budget):
    proxy, examples = tiny_proxy(family), random_examples(9, seed=1)
    gradients = oracle_gradients(proxy, examples)
    assert_same(gram_of(proxy, examples, budget), gradients @ gradients.T, 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_gradient_equals_the_oracle_module_by_module(family):
    """Stronger than the Gram matrix: every entry of every per-sample gradient, from one padded batch."""
    proxy, examples = tiny_proxy(family), random_examples(6, seed=2)
    found: dict[str, torch.Tensor] = {}
    with captured(proxy.layers, len(examples), found.__setitem__):
        response_losses(proxy.model, collate(examples, proxy.device)).sum().backward()
    assert found.keys() == proxy.factors.keys()
    ours = torch.cat([found[name] for name in proxy.factors], dim=1).double()
    expected = oracle_gradients(proxy, examples)
    error = (ours - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < 1e-5


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    count=st.integers(1, 12),
    seed=st.integers(0, 2**16),
    budget=st.integers(1, 200),
    memory=st.sampled_from([1, 2_000, 20_000, PLENTY]),
)
def test_neither_batches_nor_memory_limit_change_the_gram(count, seed, budget, memory):
    proxy, examples = tiny_proxy("llama"), random_examples(count, seed)
    whole = gram_of(proxy, examples, 10**6)
    assert_same(gram_of(proxy, examples, budget, memory), whole, 2e-6)
    assert torch.equal(whole, whole.T)


def test_what_earlier_pools_left_in_the_held_memory_does_not_show():
    proxy, held = tiny_proxy("llama"), HeldGradients()
    for seed, count in enumerate((9, 4, 12, 9)):
        examples = random_examples(count, seed)
        batches = batches_within([len(e.input_ids) for e in examples], 30)
        gram = pool_gram(proxy.model, proxy.layers, examples, batches, PLENTY, held)[0]
        assert torch.equal(gram, gram_of(proxy, examples, 30))


def test_one_row_pool():
    proxy, examples = tiny_proxy("llama"), random_examples(1, seed=3)
    gradients = oracle_gradients(proxy, examples)
    assert_same(gram_of(proxy, examples, 100), gradients @ gradients.T, 1e-5)


def test_duplicate_rows_have_equal_gradients():
    proxy, examples = tiny_proxy("llama"), random_examples(4, seed=4)
    gram = gram_of(proxy, [*examples, *examples], 30)
    assert_same(gram[:4, 4:], gram[:4, :4], 1e-5)


def test_zero_b_makes_every_a_gradient_zero():
    """Why the proxy is warmed up: at LoRA's start half of the factors carry no information."""
    proxy, examples = tiny_proxy("llama", b_scale=0.0), random_examples(3, seed=5)
    found: dict[str, torch.Tensor] = {}
    with captured(proxy.layers, len(examples), found.__setitem__):
        response_losses(proxy.model, collate(examples, proxy.device)).sum().backward()
    for name, gradient in found.items():
        assert bool(gradient.any()) == (".lora_B." in name)


def test_hooks_and_gradients_leave_no_trace():
    proxy, examples = tiny_proxy("llama"), random_examples(3, seed=6)
    before = {name: p.clone() for name, p in proxy.model.named_parameters()}
    gram_of(proxy, examples, 20)
    for name, p in proxy.model.named_parameters():
        assert p.grad is None and torch.equal(p, before[name])
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in proxy.model.modules())


def test_bfloat16_sums_are_wider_than_its_gradients():
    proxy, examples = tiny_proxy("llama"), random_examples(8, seed=7)
    exact = gram_of(proxy, examples, 50)
    for parameter in proxy.model.parameters():
        parameter.data = parameter.data.bfloat16()
    assert_same(gram_of(proxy, examples, 50), exact, 0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_too_the_memory_limit_changes_nothing(family):
    """Layers whose gradients are not taken in a pass compute what they compute in the others."""
    proxy, examples = mixed_proxy(family), random_examples(9, seed=14)
    whole = gram_of(proxy, examples, 40)
    assert_same(gram_of(proxy, examples, 40, memory=2_000), whole, 1e-12)
    exact = oracle_gradients(tiny_proxy(family), examples)
    assert_same(whole, exact @ exact.T, 0.05)


@pytest.mark.parametrize("at_once", [1, 3 * VOCABULARY, 1 << 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_their_gradients_in_parts_are_those_of_the_whole(dtype, at_once, monkeypatch):
    monkeypatch.setattr("spice_select.gradients.loss.LOGITS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(10, VOCABULARY, generator=generator)).to(dtype).requires_grad_()
    targets, weights = torch.arange(10) % VOCABULARY, torch.rand(10, generator=generator)
    expected = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    (wanted,) = torch.autograd.grad(expected @ weights, logits)
    found = _TokenNll.apply(logits.clone(), targets)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(found @ weights, logits)
    torch.testing.assert_close(gradient, wanted, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_mean_loss_counts_only_trained_tokens():
    proxy, examples = tiny_proxy("llama"), random_examples(5, seed=8)
    losses = response_losses(proxy.model, collate(examples, proxy.device)).detach()
    for example, loss in zip(examples, losses, strict=True):
        ids = torch.tensor(example.input_ids)[None].long()
        log_p = proxy.model(input_ids=ids).logits[0].log_softmax(-1)
        nll = [-log_p[t - 1, ids[0, t]] for t in range(1, ids.shape[1]) if example.trained[t]]
        torch.testing.assert_close(loss, torch.stack(nll).mean(), rtol=1e-5, atol=1e-6)


def test_logits_are_computed_only_where_a_token_is_trained():
    proxy, examples = tiny_proxy("llama"), random_examples(5, seed=9)
    seen = []
    handle = proxy.model.get_output_embeddings().register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape)))
    response_losses(proxy.model, collate(examples, proxy.device))
    handle.remove()
    assert seen == [(1, sum(e.trained_tokens for e in examples), VOCABULARY)]


def test_groups_cover_every_module_once_and_respect_the_ceiling():
    proxy = tiny_proxy("llama")
    for memory in (1, 5_000, 50_000, PLENTY):
        groups = layer_groups(proxy.layers, 10, memory, torch.float32)
        assert [name for group in groups for name in group] == list(proxy.layers)
        for group in groups:
            factors = [factor for name in group for factor in proxy.layers[name].factors.values()]
            held = sum(10 * 4 * factor.weight.numel() for factor in factors)
            assert held <= memory or len(group) == 1
    assert len(layer_groups(proxy.layers, 0, 1, torch.float32)) == 1, "one batch holds nothing between batches"


def test_factor_gradients_are_autograds_own():
    torch.manual_seed(3)
    x, w = torch.randn(3, 5, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    a = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    y = (x @ w.T + 1.7 * x @ a.T @ b.T).square()
    expected = [torch.autograd.grad(y[i].sum(), (a, b), retain_graph=True) for i in range(3)]
    dy = (2 * (x @ w.T + 1.7 * x @ a.T @ b.T)).detach()
    of_a, of_b = factor_gradients(x.detach(), dy, 1.7 * x @ a.detach().T, 1.7 * dy @ b.detach())
    torch.testing.assert_close(of_a, torch.stack([one.flatten() for one, _ in expected]))
    torch.testing.assert_close(of_b, torch.stack([other.flatten() for _, other in expected]))


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_layers_give_the_same_gradients_and_come_back_as_they_were(family):
    """Capture needs x and dy alone, so it need not know whether B A is part of W; putting W back leaves no rounding."""
    proxy, examples = tiny_proxy(family), random_examples(7, seed=10)
    gradients = oracle_gradients(proxy, examples)
    before = {name: p.clone() for name, p in proxy.model.named_parameters()}
    with merged(proxy):
        assert_same(gram_of(proxy, examples, 40), gradients @ gradients.T, 1e-5)
    for name, p in proxy.model.named_parameters():
        assert torch.equal(p, before[name])
    assert_same(gram_of(proxy, examples, 40), gradients @ gradients.T, 1e-5)
    merge(proxy)
    assert_same(gram_of(proxy, examples, 40), gradients @ gradients.T, 1e-5)


@pytest.mark.parametrize("layers_done", [0, 3, None])
def test_merged_layers_come_back_after_a_failure(layers_done, monkeypatch):
    """In the work, or half way through merging."""
    proxy = tiny_proxy("llama")
    before = {name: p.clone() for name, p in proxy.model.named_parameters()}
    if layers_done is not None:
        failing = list(proxy.layers.values())[layers_done].module
        monkeypatch.setattr(failing, "merge", lambda: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError), merged(proxy):
        raise MemoryError
    for name, p in proxy.model.named_parameters():
        assert torch.equal(p, before[name])
    assert not any(layer.module.merged for layer in proxy.layers.values())


def test_a_model_that_writes_into_a_layers_output_is_no_problem():
    """OLMo clips queries, keys and values in place."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    model = OlmoForCausalLM(OlmoConfig(**sizes, num_attention_heads=4, clip_qkv=0.02, pad_token_id=0, eos_token_id=2))
    proxy, examples = attach_lora(model.eval().requires_grad_(False), 3, 6.0, 0), random_examples(5, seed=12)
    for factor in proxy.factors.values():
        torch.nn.init.normal_(factor.weight, std=0.05)
    gradients = oracle_gradients(proxy, examples)
    assert_same(gram_of(proxy, examples, 40), gradients @ gradients.T, 1e-5)
    with merged(proxy):
        assert_same(gram_of(proxy, examples, 40), gradients @ gradients.T, 1e-5)


def test_what_an_adapter_learnt_is_not_rounded_away_in_bfloat16():
    """B A much smaller than the weights' spacing: merged into them it would vanish, and change no gradient."""
    proxy, examples = tiny_proxy("llama", b_scale=1e-3), random_examples(6, seed=11)
    proxy.model.bfloat16()
    for factor in proxy.factors.values():
        factor.weight.data = factor.weight.data.float()
    weights = {name: p.clone() for name, p in proxy.model.named_parameters()}
    before = gram_of(proxy, examples, 40)
    with merged(proxy):
        assert torch.equal(gram_of(proxy, examples, 40), before)
    merge(proxy)
    assert torch.equal(gram_of(proxy, examples, 40), before)
    assert all(torch.equal(p, weights[name]) for name, p in proxy.model.named_parameters())


def adapted(layer, merged):
    a, b = (torch.nn.Linear(*sizes, bias=False).requires_grad_(False) for sizes in ((layer.in_features, 1), (1, 2)))
    outer = torch.nn.Sequential(layer)
    return outer, {"layer": AdaptedLayer(outer, layer, lambda: merged, "a", a, "b", b, 1.0)}


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (1, 6, 4), (3, 2, 4)])
def test_activations_without_an_entry_for_each_row_are_refused(merged, shape):
    """Two rows of three tokens, flattened, in one row, or tokens first: their gradients would be mixed."""
    layer, layers = adapted(torch.nn.Linear(4, 2, bias=False), merged)
    with captured(layers, 2, lambda *_: None), pytest.raises(ModelError, match=r"layer layer .* not \[2 rows, tokens"):
        layer(torch.randn(shape))


@pytest.mark.parametrize("merged", [True, False])
def test_a_layer_used_twice_is_refused(merged):
    """Its gradient is the sum of two products; each alone would be a wrong one."""
    layer, layers = adapted(torch.nn.Linear(2, 2, bias=False).requires_grad_(False), merged)
    with captured(layers, 1, lambda *_: None), pytest.raises(ModelError, match="more than once"):
        layer(layer(torch.ones(1, 2, 2))).sum().backward()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_losses_while_gradients_are_taken_are_the_proxys_own(family):
    """Layers that compute W x and B A x apart are replaced for the time of the pass; what they compute is not."""
    proxy, examples = tiny_proxy(family), random_examples(5, seed=13)
    batch = collate(examples, proxy.device)
    expected = response_losses(proxy.model, batch).detach()
    with captured(proxy.layers, len(examples), lambda *_: None):
        torch.testing.assert_close(response_losses(proxy.model, batch).detach(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(response_losses(proxy.model, batch), expected)
