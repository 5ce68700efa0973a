"""Adapters on the last blocks alone: the same gradients as theirs among all, and nothing below is differentiated."""

import pytest
import torch

from oracles.gradient_oracle import FAMILIES, oracle_gradients, random_examples, tiny_model
from spice_select.errors import ModelError
from spice_select.gradients.capture import captured
from spice_select.gradients.loss import collate, response_losses
from spice_select.proxy.lora import attach_lora


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_last_blocks_have_adapters(family):
    proxy = attach_lora(tiny_model(family), 2, 4.0, 0, last_blocks=1)
    every = attach_lora(tiny_model(family), 2, 4.0, 0)
    assert len(proxy.layers) * 2 == len(every.layers)
    assert all(".1." in name for name in proxy.layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_their_gradients_are_the_oracles(family):
    proxy, examples = attach_lora(tiny_model(family), 2, 4.0, 0, last_blocks=1), random_examples(5, seed=1)
    for factor in proxy.factors.values():
        torch.nn.init.normal_(factor.weight, std=0.1)
    found: dict[str, torch.Tensor] = {}
    with captured(proxy.layers, len(examples), found.__setitem__):
        response_losses(proxy.model, collate(examples, proxy.device)).sum().backward()
    ours = torch.cat([found[name] for name in proxy.factors], dim=1).double()
    expected = oracle_gradients(proxy, examples)
    assert ((ours - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-5


def test_the_backward_pass_ends_at_the_lowest_adapted_layer():
    model = tiny_model("llama")
    proxy, examples = attach_lora(model, 2, 4.0, 0, last_blocks=1), random_examples(3, seed=2)
    outputs = []
    model.model.layers[0].register_forward_hook(lambda _, __, output: outputs.append(output))
    with captured(proxy.layers, len(examples), lambda *_: None):
        response_losses(model, collate(examples, proxy.device)).sum().backward()
    assert not outputs[0].requires_grad


def test_more_blocks_than_there_are_is_refused():
    with pytest.raises(ModelError, match="2 blocks; ask for at most last:2"):
        attach_lora(tiny_model("llama"), 2, 4.0, 0, last_blocks=3)
