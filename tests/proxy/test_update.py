"""The proxy's training step against a plain loop, and its state through a round trip."""

from dataclasses import replace

import pytest
import torch

from oracles.gradient_oracle import oracle_gradients, random_examples, tiny_proxy
from spice_select.proxy.update import MAX_GRADIENT_NORM, ProxyOptimizer


def weights_of(proxy):
    return torch.cat([layer.weight.detach().flatten() for layer in proxy.factors.values()])


def test_a_step_is_adamw_on_the_mean_of_the_examples_gradients():
    """First AdamW step moves by lr * g / (|g| + eps'): compare with torch's own on the oracle's mean gradient."""
    proxy, examples = tiny_proxy("llama"), random_examples(6, seed=1)
    mean = oracle_gradients(proxy, examples).mean(dim=0).float()
    mean = mean * min(1.0, MAX_GRADIENT_NORM / float(mean.norm()))
    expected = weights_of(proxy).clone().requires_grad_(True)
    reference = torch.optim.AdamW([expected], lr=1e-3, weight_decay=0.0)
    expected.grad = mean
    reference.step()
    ProxyOptimizer(replace(proxy, batch_tokens=30), 1e-3, 0).train_on(examples, 6)
    # AdamW's first step is a sign step: entries near zero may differ, the rest may not.
    clear = mean.abs() > 1e-5
    torch.testing.assert_close(weights_of(proxy)[clear], expected.detach()[clear], rtol=0, atol=2e-5)


@pytest.mark.parametrize("budget", [1, 25])
def test_micro_batches_do_not_change_training(budget):
    examples = random_examples(10, seed=2)
    results = []
    for b in (budget, 10_000):
        proxy = replace(tiny_proxy("llama"), batch_tokens=b)
        losses = ProxyOptimizer(proxy, 1e-2, 3).train_on(examples, 4)
        results.append((weights_of(proxy), losses))
    assert len(results[0][1]) == 3
    torch.testing.assert_close(torch.tensor(results[0][1]), torch.tensor(results[1][1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=2e-3)


def test_training_learns():
    proxy, examples = tiny_proxy("llama"), random_examples(4, seed=3)
    optimizer = ProxyOptimizer(proxy, 2e-2, 2)
    losses = [optimizer.train_on(examples, 4)[0] for _ in range(20)]
    assert losses[-1] < losses[0] - 0.05


def test_the_rate_rises_linearly():
    proxy, examples = tiny_proxy("llama"), random_examples(5, seed=4)
    optimizer = ProxyOptimizer(proxy, 1e-2, 4)
    rates = []
    for example in examples:
        optimizer.train_on([example], 1)
        rates.append(optimizer.adamw.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])


def test_a_restored_optimizer_continues_bit_for_bit():
    examples = random_examples(8, seed=5)
    straight = tiny_proxy("llama")
    optimizer = ProxyOptimizer(straight, 1e-2, 3)
    optimizer.train_on(examples[:4], 2)
    state = {key: value.clone() for key, value in optimizer.state().items()}
    steps = optimizer.steps
    optimizer.train_on(examples[4:], 2)

    other = tiny_proxy("llama", seed=0, b_scale=0.3)
    again = ProxyOptimizer(other, 1e-2, 3)
    again.restore(state, steps)
    again.train_on(examples[4:], 2)
    assert torch.equal(weights_of(other), weights_of(straight))
    assert again.steps == optimizer.steps


def test_after_training_no_factor_requires_a_gradient():
    proxy = tiny_proxy("llama")
    ProxyOptimizer(proxy, 1e-2, 3).train_on(random_examples(2, seed=6), 2)
    assert not any(p.requires_grad for p in proxy.model.parameters())
